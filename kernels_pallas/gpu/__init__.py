"""Paged attention for Hopper and Blackwell, in Pallas Mosaic GPU."""
