"""Replays a trace in real time against a server, or an engine in this process, and measures what its users see."""
