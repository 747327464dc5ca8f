"""Options that say how queries arrive."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from workloads.generate.arrivals import ArrivalProcess

_KINDS = ("poisson", "bursty", "diurnal")
_OPTIONS = (
    click.option(
        "--arrivals", type=click.Choice(_KINDS), default="poisson", show_default=True, help="How they arrive."
    ),
    click.option(
        "--variation",
        type=float,
        default=3.0,
        show_default=True,
        help="bursty: standard deviation of the gaps over their mean; Poisson has 1.",
    ),
    click.option(
        "--swing",
        type=float,
        default=0.8,
        show_default=True,
        help="diurnal: how far the rate swings, as a share of its mean.",
    ),
    click.option("--period-s", type=float, help="diurnal: seconds from peak to peak.  [default: the whole trace]"),
)


def arrival_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets `arrivals`, `variation`, `swing`, `period_s`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_arrivals(arrivals: Any, variation: float, swing: float, period_s: float | None) -> "ArrivalProcess":
    """The process, given the options of the same names.

    Raises:
      InvalidArgument: one is out of range.
    """
    from workloads.generate.arrivals import ArrivalProcess

    return ArrivalProcess(arrivals, variation, swing, period_s)
