"""Traces of sessions for OpenTelemetry. Only `spans` and `tracing` need its packages (the extra `otel`)."""
