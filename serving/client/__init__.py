"""Client library: small, typed, and free of any accelerator library."""

from s2l_jax.core.constraint import Constraint
from s2l_jax.core.params import SamplingParams
from serving.client.aio import AsyncClient, AsyncSession
from serving.client.context import AsyncContext, Context
from serving.client.context_documents import Document
from serving.client.context_saved import Saved, Savings, Step
from serving.client.prompt import PromptPieces
from serving.client.sync import Client, Session
from serving.client.tls import ClientTls
from serving.client.types import Accepted, Done, Event, HostStats, ModelInfo, Progress, Result, ServerStats, Token

__all__ = [
    "Accepted",
    "AsyncClient",
    "AsyncContext",
    "AsyncSession",
    "Client",
    "ClientTls",
    "Constraint",
    "Context",
    "Document",
    "Done",
    "Event",
    "HostStats",
    "ModelInfo",
    "Progress",
    "PromptPieces",
    "Result",
    "SamplingParams",
    "Saved",
    "Savings",
    "ServerStats",
    "Session",
    "Step",
    "Token",
]
