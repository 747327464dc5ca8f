"""Paged attention for TPUs, in Pallas."""
