"""Commands of `s2l profile`."""
