"""How a server is watched."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from s2l_jax.core.errors import InvalidArgument

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """What a server tells of itself.

    Attributes:
      vllm_metrics: export metrics under vLLM's names as well.
      log_format: `text` or `json`.
      log_level: the least level of log lines; from `info` on there is one for each session that ends.
      otlp_endpoint: where traces go, by OTLP over HTTP; None traces nothing.
      debug_profile: directory for profiles that `POST /debug/profile` takes; None takes none.

    Raises:
      InvalidArgument: a value is out of range, or a package is missing.
    """

    vllm_metrics: bool = False
    log_format: str = "text"
    log_level: str = "warning"
    otlp_endpoint: str | None = None
    debug_profile: Path | None = None

    def __post_init__(self) -> None:
        for name, values in (("log_format", LOG_FORMATS), ("log_level", LOG_LEVELS)):
            if getattr(self, name) not in values:
                option = "--" + name.replace("_", "-")
                raise InvalidArgument(f"{option} is {getattr(self, name)!r}, but must be one of {', '.join(values)}")
        if self.otlp_endpoint is not None:
            _check_otlp(self.otlp_endpoint)


def _check_otlp(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidArgument(
            f"--otlp-endpoint is {endpoint!r}, but must be a URL of OTLP over HTTP, such as http://localhost:4318"
        )
    try:
        is_there = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there or importlib.util.find_spec("opentelemetry.sdk") is None:
        raise InvalidArgument("--otlp-endpoint needs OpenTelemetry's packages: pip install 's2l-jax[otel]'")
