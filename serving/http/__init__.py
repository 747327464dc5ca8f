"""The HTTP server: OpenAI's API, and streaming context for clients that have only HTTP."""
