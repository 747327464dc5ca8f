"""Traces, live retrieval, replay and reports."""
