"""Reads traces of other formats, one module a format, and writes them in ours."""
