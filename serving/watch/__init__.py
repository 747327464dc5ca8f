"""What is known of sessions while they run and shortly after: the source of metrics, traces, logs and the live page."""
