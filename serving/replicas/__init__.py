"""One door to many servers: sessions are given to replicas, and go on elsewhere if theirs is lost."""
