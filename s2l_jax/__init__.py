"""The s2l engine room: scheduling core, JAX engine, models, orchestrator."""
