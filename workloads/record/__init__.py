"""Records the traffic of a server as a trace, from between its clients and itself."""
