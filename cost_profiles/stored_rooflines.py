"""The rooflines that come with the package, and how they are made again without losing what has been calibrated."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cost_profiles.hardware import MACHINES
from cost_profiles.model_shape import MODELS
from cost_profiles.profile import PART_TERMS, Profile
from cost_profiles.roofline import roofline

_TPUS = ("v5e-8", "v5p-8", "v6e-8", "v7x-2")


@dataclass(frozen=True, slots=True)
class StoredRoofline:
    """One of them: a machine and a model by name."""

    machine: str
    model: str
    int8_weights: bool = False

    @property
    def name(self) -> str:
        """Of the profile, and of its file."""
        return f"{self.machine}-{self.model}"

    def profile(self) -> Profile:
        """As the code has it now."""
        return roofline(MACHINES[self.machine], MODELS[self.model], int8_weights=self.int8_weights)


# Weights of 70B in bfloat16 are more than the memory of eight v5e.
STORED_ROOFLINES: Mapping[str, StoredRoofline] = {
    stored.name: stored
    for stored in (
        *(StoredRoofline(machine, "llama3.1-8b") for machine in ("h200-tp2", "h100-tp2", "a40", *_TPUS)),
        *(StoredRoofline(machine, "llama3.1-70b", int8_weights=machine == "v5e-8") for machine in _TPUS),
    )
}


def renewed(kept: Profile, fresh: Profile) -> Profile:
    """A roofline made again, with those parts of the kept profile that are better than a roofline.

    Args:
      kept: parts that were measured, imported or calibrated stay, with their terms, points and residuals.
      fresh: the roofline as the code has it now.
    """
    better = [name for name, part in kept.parts.items() if part.provenance != "roofline"]
    terms = {term: getattr(kept.costs, term) for name in better for term in PART_TERMS[name]}
    profile = replace(
        fresh,
        costs=replace(fresh.costs, **terms),
        parts={name: kept.parts[name] if name in better else part for name, part in fresh.parts.items()},
        copies=tuple(point for point in kept.copies if point.kind in better),
    )
    if "steps" not in better:
        return profile
    return replace(profile, latency_s=kept.latency_s, steps=kept.steps, residuals=kept.residuals)
