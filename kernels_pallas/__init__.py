"""Paged attention and page copies behind one front door."""
