"""Prometheus metrics: declared in one place, observed as sessions go, read off the orchestrator when scraped."""
