"""Log lines: for people or for machines, each line about a session with its id, and none that holds up the engine."""
