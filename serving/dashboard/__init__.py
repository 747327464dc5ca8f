"""The live page: what the sessions of a server are doing, and what was so in the last minutes."""
