"""Pure scheduling: no JAX, no clock, no thread."""
