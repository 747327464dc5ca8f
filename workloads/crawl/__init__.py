"""A live crawl as retrieval: a documentation site with realistic delays, and a crawler that reads it."""
