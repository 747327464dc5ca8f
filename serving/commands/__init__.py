"""Commands of the `s2l` command line that serve and ask."""
