"""Profiles of machines that nobody has measured: the work over what the data sheets promise, times efficiencies.

A sum of terms, like every profile: reading the weights and computing are added up although they overlap, so steps of
few tokens come out a little slow. Left out are the start-up time of each all-reduce, and the traffic between the two
halves of a TPU7x chip.
"""

from dataclasses import dataclass, fields

from cost_profiles.hardware import Machine
from cost_profiles.model_shape import ModelShape
from cost_profiles.profile import Part, Profile, ProfileMemory
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.errors import InvalidArgument

BLOCK_TOKENS = 16
_LEAST_KV_TOKENS = 131_072  # one session of full length, or the machine is none for the model


@dataclass(frozen=True, slots=True)
class Efficiencies:
    """What machines reach of what they promise, and what the host adds. One set for all chips.

    So profiles of different chips differ by their data sheets alone. None of it has been measured with this software.

    Attributes:
      matrices: of peak arithmetic, in the matrices of prefill. 58% agrees with the times to first token that
        Stream2LLM published for two H200 (benchmarks/policies.py); 73% has been published for prefill on a TPU
        (arXiv 2604.15464).
      attention: of peak arithmetic, in prefill attention. From the same comparison with Stream2LLM.
      weights: of memory bandwidth, reading weights. 86% has been published for decode on a TPU (arXiv 2604.15464).
      kv: of memory bandwidth, reading pages of KV that lie apart. Assumed.
      interconnect: of the links between chips. Assumed; not every link of a small TPU slice leads to a chip of it.
      host_link: of the link to the host. Assumed: pages are copied in many pieces.
      host_dram: share of the host's memory that may hold KV. Assumed.
      step_s: what the host adds to a step. Assumed.
      sequence_s: what the host adds for each decoded token: sampling, detokenizing. Assumed.
      copy_s: what starting a copy takes. Assumed.
    """

    matrices: float = 0.58
    attention: float = 0.44
    weights: float = 0.86
    kv: float = 0.60
    interconnect: float = 0.60
    host_link: float = 0.40
    host_dram: float = 0.80
    step_s: float = 2e-3
    sequence_s: float = 5e-6
    copy_s: float = 1e-4

    def __post_init__(self) -> None:
        for field in fields(self):
            value, most = getattr(self, field.name), float("inf") if field.name.endswith("_s") else 1.0
            if not 0.0 < value <= most:
                raise InvalidArgument(f"efficiency {field.name} is {value}, but must be above 0 and at most {most:g}")


DEFAULT_EFFICIENCIES = Efficiencies()


def roofline(
    machine: Machine,
    model: ModelShape,
    *,
    int8_weights: bool = False,
    efficiencies: Efficiencies = DEFAULT_EFFICIENCIES,
    name: str | None = None,
) -> Profile:
    """The profile of a model on a machine.

    Args:
      machine: the model's heads must be divisible among its chips.
      model: its sizes.
      int8_weights: keep the layers' matrices in 8 bits; they are multiplied in bfloat16 all the same.
      efficiencies: of the machine.
      name: of the profile; None puts the names of machine and model together.

    Raises:
      InvalidArgument: the heads are not divisible, or the memory has no room for KV of one session of full length.
    """
    if model.kv_heads % machine.count:
        raise InvalidArgument(
            f"{model.kv_heads} KV heads of {model.title} cannot be shared out evenly to {machine.count} chips: "
            f"take a number of chips that divides {model.kv_heads}"
        )
    memory = _memory(machine, model, int8_weights, efficiencies)
    left_tokens = (memory.device_bytes - memory.weights_bytes) // model.kv_token_bytes
    if left_tokens < min(_LEAST_KV_TOKENS, model.max_model_len):
        raise InvalidArgument(
            f"{model.title} does not fit into {machine.title}: weights take {memory.weights_bytes / 1e9:.1f} of "
            f"{memory.device_bytes / 1e9:.1f} GB, which leaves room for {max(0, left_tokens):,} tokens of KV, but one "
            f"session may have {model.max_model_len:,}: take more chips" + ("" if int8_weights else ", or int8 weights")
        )
    return Profile(
        name=name or f"{machine.name}-{model.name}",
        model=model.title,
        hardware=machine.title,
        devices=machine.count,
        dtype="int8 weights, bfloat16 KV" if int8_weights else "bfloat16",
        memory=memory,
        max_model_len=model.max_model_len,
        costs=_costs(machine, model, memory, efficiencies),
        parts=_parts(machine, int8_weights, efficiencies),
    )


def _memory(machine: Machine, model: ModelShape, int8_weights: bool, efficiencies: Efficiencies) -> ProfileMemory:
    return ProfileMemory(
        device_bytes=machine.count * machine.chip.hbm_bytes,
        host_bytes=int(machine.count * machine.chip.dram_bytes * efficiencies.host_dram),
        weights_bytes=model.weight_bytes(int8_weights),
        block_bytes=BLOCK_TOKENS * model.kv_token_bytes,
        block_tokens=BLOCK_TOKENS,
    )


def _costs(machine: Machine, model: ModelShape, memory: ProfileMemory, efficiencies: Efficiencies) -> PhysicalCosts:
    chip, count = machine.chip, machine.count
    flops = count * chip.bf16_flops
    bandwidth_bytes_s = count * chip.hbm_bytes_s
    link_bytes_s = chip.interconnect_bytes_s * efficiencies.interconnect
    # In a ring all-reduce each chip sends this multiple of the data (Thakur et al. 2005): none if it is alone.
    sent = 2 * (count - 1) / count
    reduce_s = sent * model.reduced_token_bytes / link_bytes_s
    swap_block_s = memory.block_bytes / (count * chip.host_link_bytes_s * efficiencies.host_link)
    costs = PhysicalCosts(
        step_s=efficiencies.step_s + memory.weights_bytes / (bandwidth_bytes_s * efficiencies.weights),
        token_s=model.token_flops / (flops * efficiencies.matrices) + reduce_s,
        attended_s=model.attended_flops / (flops * efficiencies.attention),
        decode_s=(model.token_flops + model.output_flops) / (flops * efficiencies.matrices)
        + reduce_s
        + efficiencies.sequence_s,
        decode_context_s=model.kv_token_bytes / (bandwidth_bytes_s * efficiencies.kv),
        swap_out_s=efficiencies.copy_s,
        swap_out_block_s=swap_block_s,
        swap_in_s=efficiencies.copy_s,
        swap_in_block_s=swap_block_s,
        handoff_s=efficiencies.copy_s,
        handoff_block_s=memory.block_bytes / (count * link_bytes_s),
    )
    return PhysicalCosts(**{field.name: _rounded(getattr(costs, field.name)) for field in fields(costs)})


def _rounded(seconds: float) -> float:
    """Three digits that matter: the efficiencies have no more, and files are easier to read."""
    return float(f"{seconds:.3g}")


def _parts(machine: Machine, int8_weights: bool, efficiencies: Efficiencies) -> dict[str, Part]:
    chip = machine.chip
    steps = (
        f"{chip.source}; {efficiencies.matrices:.0%} of peak in matrices, {efficiencies.attention:.0%} in attention, "
        f"{efficiencies.weights:.0%} of bandwidth for weights, {efficiencies.kv:.0%} for KV, "
        f"{efficiencies.step_s * 1e3:g} ms of host a step"
    )
    if int8_weights:
        steps += "; layers' matrices in 8 bits, multiplied in bfloat16"
    swap = f"{chip.host_link_source}; {efficiencies.host_link:.0%} of that one way, assumed"
    handoff = f"{chip.source}; {efficiencies.interconnect:.0%} of these links one way, assumed"
    texts = {"steps": steps, "swap_out": swap, "swap_in": swap, "handoff": handoff}
    return {part: Part("roofline", text) for part, text in texts.items()}
