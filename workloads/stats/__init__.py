"""Describes traces: sizes, times, what sessions share, what updates keep."""
