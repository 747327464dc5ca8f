"""What a fit came to, for people."""

from pathlib import Path

from rich.console import Console

from cost_profiles.deviation import by_kind, deviations
from cost_profiles.deviation_table import errors_table, padded_table
from cost_profiles.profile import Profile
from cost_profiles.refit import padded_quality
from cost_profiles.table import format_seconds, terms_table


def print_fit(console: Console, profile: Profile, png: Path | None = None) -> None:
    """Prints terms and errors of a profile with points; draws the errors if asked for a picture."""
    found = deviations(profile)
    console.print(terms_table(profile))
    if profile.padded is not None:
        r_squared, worst_error = padded_quality(profile, profile.padded)
        console.print(padded_table(profile.padded))
        console.print(f"padded work: R² {r_squared:.4f}, worst error {worst_error:.1%}")
    console.print(errors_table(by_kind(found)))
    if profile.serving_slowdown != 1.0:
        console.print(f"while a server runs it, a step takes {profile.serving_slowdown:.2f} times as long")
    if profile.idle_slowdown != 1.0:
        console.print(f"after an idle device, {profile.idle_slowdown:.2f} times that")
    if profile.latency_s:
        console.print(f"latency beside the device's work: {format_seconds(profile.latency_s)} a session")
    if profile.conditions:
        console.print(", ".join(f"{name} {value}" for name, value in profile.conditions.items()), soft_wrap=True)
    if png is not None:
        from cost_profiles.deviation_figure import deviation_figure

        png.parent.mkdir(parents=True, exist_ok=True)
        deviation_figure(profile.name, found).savefig(png, dpi=150)
        console.print(f"Picture: {png}", soft_wrap=True)
