"""The demonstration: a live crawl, a real server, and what streaming buys."""
