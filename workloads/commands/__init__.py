"""Commands of the `s2l` command line that replay and compare."""
