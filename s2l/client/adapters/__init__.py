"""Retrievers of other libraries: `from s2l.client.adapters import langchain, llama_index`."""

from serving.client.adapters import langchain, llama_index

__all__ = ["langchain", "llama_index"]
