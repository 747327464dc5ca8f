"""Vector search as retrieval: real passages and questions, and a result list that is sent on while it improves."""
