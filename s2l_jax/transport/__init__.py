"""How KV gets from one engine to another."""
