"""What an engine raises beyond the common errors."""

from s2l_jax.core.errors import InternalError


class KVLost(InternalError):
    """A device step failed half way and took the page pool with it.

    The engine has a fresh, empty pool and goes on; nothing that was computed before exists any more, for any session:
    all of them must be ended or computed from their first token.
    """


class EngineGone(Exception):
    """The engine cannot be reached any more, nor will it be: an orchestrator serves its sessions elsewhere.

    Attributes:
      was_asked: somebody had it shut down, so that none of its sessions can be the reason.
    """

    def __init__(self, reason: str, *, was_asked: bool = False) -> None:
        super().__init__(reason)
        self.was_asked = was_asked
