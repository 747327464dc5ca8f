"""How much of the server one tenant may use."""

from dataclasses import dataclass, fields

from s2l_jax.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Limits of one tenant; None is without.

    Attributes:
      max_streams: sessions open at once.
      tokens_per_minute: context tokens taken, but for those that the context shared with what it was before, and output
        tokens.
      requests_per_minute: HTTP requests, WebSockets and gRPC calls; events inside of a stream are no requests.

    Raises:
      InvalidArgument: a limit is below 1.
    """

    max_streams: int | None = None
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InvalidArgument(
                    f"{one.name} is {value!r}, but must be a whole number, at least 1; leave it out for no limit"
                )
