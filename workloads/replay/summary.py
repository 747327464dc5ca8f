"""The figures of a whole run, and the folder that holds them."""

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from s2l_jax.core.errors import InvalidArgument
from workloads.replay.rows import SessionRow
from workloads.replay.runner import Measured
from workloads.replay.target import TargetCounters

SUMMARY_FILE = "summary.json"
PREEMPTION_KINDS = ("swap", "recompute", "tail", "drop")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What was run.

    Attributes:
      mode: `stream` or `wait`.
      qps: arrivals per second, None as recorded.
      target: as given on the command line.
      policy: scheduling policy.
      model: what the target serves.
      seed: of arrivals and made-up tokens.
      trace: name of the trace.
      trace_sha256: hash of its file.
      source: where the trace's content comes from.
      made_up: what its source does not tell and was made up; empty if nothing was.
      server_version: version of the server's software, empty if it does not tell.
    """

    mode: str
    qps: float | None
    target: str
    policy: str
    model: str
    seed: int
    trace: str
    trace_sha256: str
    source: str = ""
    made_up: str = ""
    server_version: str = ""


def distribution(values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean and percentiles (linear between neighbours) of the values that are there; all None if there are none."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return dict.fromkeys(("mean", "p50", "p95", "p99", "p999"))
    p50, p95, p99, p999 = np.percentile(known, [50, 95, 99, 99.9]).tolist()
    return {"mean": float(known.mean()), "p50": p50, "p95": p95, "p99": p99, "p999": p999}


def summarise(
    measured: Measured,
    info: RunInfo,
    before: TargetCounters,
    after: TargetCounters,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary of a run.

    Args:
      measured: what was seen.
      info: what was run.
      before: the target's counters before the run.
      after: and after it.
      extra: more to keep, such as the server's use of the processor.
    """
    rows = measured.sessions
    counts = {name: count - before.preemptions.get(name, 0) for name, count in after.preemptions.items()}
    return {
        "requests": len(rows),
        "completed": sum(row.completed for row in rows),
        "failed": sum(not row.completed for row in rows),
        "interrupted": measured.interrupted,
        "wall_s": measured.wall_s,
        "output_tokens": _total(rows, "output_tokens"),
        "ttft_final_s": distribution(row.ttft_final_s for row in rows),
        "ttft_open_s": distribution(row.ttft_open_s for row in rows),
        "server_ttft_final_s": distribution(row.server_ttft_final_s for row in rows),
        "server_ttft_open_s": distribution(row.server_ttft_open_s for row in rows),
        "tpot_s": distribution(row.tpot_s for row in rows),
        "send_lag_max_s": max((row.send_lag_s for row in rows), default=0.0),
        "tokens_prompt": _total(rows, "prompt_tokens"),
        "tokens_computed": _total(rows, "computed_tokens"),
        "tokens_reused": _total(rows, "reused_tokens"),
        "tokens_invalidated": _total(rows, "invalidated_tokens"),
        "tokens_restored": _total(rows, "restored_tokens"),
        "tokens_recomputed": _total(rows, "recomputed_tokens"),
        "preemptions": {kind: counts.get(kind, 0) for kind in PREEMPTION_KINDS},
        "copied_blocks": {name: count for name, count in counts.items() if name not in PREEMPTION_KINDS},
        "engine_steps": after.steps - before.steps,
        **asdict(info),
        "client": {"s2l": version("s2l-jax"), "python": platform.python_version(), "machine": platform.platform()},
        **(extra or {}),
    }


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Writes `summary.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads `summary.json`.

    Raises:
      InvalidArgument: the folder holds none, or it is not one of ours.
    """
    path = folder / SUMMARY_FILE
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InvalidArgument(f"{path} is not there; name a folder that `s2l replay --out` has written") from None
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"{path} is not JSON ({error})") from None
    if not isinstance(summary, dict) or "ttft_final_s" not in summary:
        raise InvalidArgument(f"{path} is not the summary of a replay: it has no ttft_final_s")
    return summary


def _total(rows: Sequence[SessionRow], column: str) -> int:
    return sum(getattr(row, column) for row in rows)
