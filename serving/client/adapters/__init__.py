"""Retrievers of other libraries, streamed into a `Context`. Importing these modules imports none of the libraries."""

from serving.client.adapters import langchain, llama_index

__all__ = ["langchain", "llama_index"]
