"""The one place where model, engine, scheduler and orchestrator are put together.

Servers, and replay without a server, start here. Importing this module imports the accelerator library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import jax
from flax import nnx

from cost_profiles.at_start import machine_costs
from cost_profiles.machine import device_name
from cost_profiles.measurement import MachineKey
from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import CostModel
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.policy import POLICIES
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.engine.memory import block_bytes, blocks_that_fit, host_bytes
from s2l_jax.engine.protocol import Engine
from s2l_jax.models import registry
from s2l_jax.models.chat import ChatTemplate
from s2l_jax.models.registry import LoadedModel
from s2l_jax.models.tokenizer import Tokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig, Role
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.client.prompt import PromptPieces, pieces_of_template
from serving.client.tls import ClientTls
from serving.client.types import ModelInfo
from serving.config import ServeConfig
from serving.devices import devices_of, devices_of_all, devices_of_world
from serving.remote.choice import check_host, transport_between
from serving.remote.peers import Peers, description_of
from serving.world.follower import Follower
from serving.world.leader import Leader
from serving.world.leading_engine import LeadingEngine
from serving.world.start import agreed, lead

_CPU_HOST_KV_SHARE = 0.1
_HOST_KV_SHARE = 0.25
_HOST_BLOCKS_PER_BLOCK = 4  # a larger host pool than this finds no use

Progress = Callable[[str, int, int, str], None]
"""Called as `progress(stage, done, total, detail)`, possibly from other threads; stages are `load`,
`compile`, and at the first start on a machine `measure`."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """A started orchestrator and what it serves.

    Attributes:
      orchestrator: ready for sessions; whoever assembled it closes it.
      model: what a client may know about it.
      tokenizer: of the model.
      chat_template: how a conversation becomes a prompt, None if the model has none.
      engine: sizes that were chosen, of the first engine.
      costs: what its scheduler reckons with.
      deployed: role of each engine, and where it is.
      leader: of the world that the first engine spans; None if it is in one process.
    """

    orchestrator: Orchestrator
    model: ModelInfo
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    engine: EngineConfig
    costs: CostModel
    deployed: tuple[tuple[Role, str], ...]
    leader: Leader | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """An engine that is not warm yet, and what it runs.

    Attributes:
      model: where its weights come from.
      weights_bytes: what they take on the devices.
      sizes: of the engine.
      devices: of the engine.
      engine: to be warmed up.
    """

    model: LoadedModel
    weights_bytes: int
    sizes: EngineConfig
    devices: tuple[jax.Device, ...]
    engine: JaxEngine | LeadingEngine


def build(config: ServeConfig, progress: Progress | None = None, member: Leader | Follower | None = None) -> Built:
    """Loads the model and makes the only engine; arguments and errors are those of `build_all`."""
    built = build_all(config, progress, member)
    if len(built) > 1:
        raise InvalidArgument(f"--slices are of {len(built)} engines, but this takes one")
    return built[0]


def build_all(
    config: ServeConfig, progress: Progress | None = None, member: Leader | Follower | None = None
) -> list[Built]:
    """Loads the model and makes its engines, in the order of `config.engine_slices`.

    Args:
      config: as for `assemble`, whose errors these are.
      progress: likewise.
      member: this process's part in the world that its only engine spans.
    """
    report = progress or _ignore
    slices = [each for _, each in config.engine_slices if each is not None]
    if member is not None:
        all_devices = [devices_of_world(slices[0], member.config.size)]
    else:
        all_devices = devices_of_all(slices) if slices else [devices_of(None)]
    dtype = config.dtype or ("float32" if all_devices[0][0].platform == "cpu" else "bfloat16")
    count = len(all_devices)
    report("load", 0, count, config.model)
    model = registry.load(config.model, dtype=dtype, quantization=config.quantization)
    built = []
    for devices in all_devices:
        built.append(_build_on(config, model, dtype, devices, count, member))
        report("load", len(built), count, config.model)
    return built


def _build_on(
    config: ServeConfig,
    model: LoadedModel,
    dtype: str,
    devices: tuple[jax.Device, ...],
    engines: int,
    member: Leader | Follower | None,
) -> Built:
    on_devices = model.build(devices)
    sizes = _engine_config(config, model, dtype, devices, engines)  # when the weights have taken their memory
    if member is not None:
        sizes = agreed(member, sizes, on_devices)
    weights_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(on_devices)))
    engine = JaxEngine(on_devices, model.config, sizes)
    shown = LeadingEngine(engine, member) if isinstance(member, Leader) else engine
    return Built(model, weights_bytes, sizes, devices, shown)


def scheduler_config(config: ServeConfig, built: Built, role: Role = "both", index: int = 0) -> SchedulerConfig:
    """The scheduler's limits before this engine, the one of this index."""
    sizes = built.sizes
    return SchedulerConfig(
        num_blocks=sizes.num_blocks,
        block_size=sizes.block_size,
        token_budget=sizes.token_budget,
        max_batch=sizes.max_batch,
        max_sessions=sizes.max_sessions,
        max_model_len=sizes.max_model_len,
        policy=config.policy,
        host_blocks=sizes.host_blocks,
        preemption=config.preemption,
        role="prefill" if role == "prefill" else "both",
        seed=index,
        eos_token_ids=built.model.config.eos_token_ids,
    )


def assemble(
    config: ServeConfig,
    progress: Progress | None = None,
    *,
    wrap_engine: Callable[[Engine], Engine] | None = None,
    costs: CostModel | None = None,
    peer_tls: ClientTls | None = None,
    host: str = "127.0.0.1",
) -> Assembly:
    """Loads the model, compiles all that traffic needs, and starts the engine threads.

    Args:
      config: what is served.
      progress: told how far it is.
      wrap_engine: given an engine, returns what is used in its place, to watch it.
      costs: what schedulers reckon with; None takes what was measured on this machine, or measures it now.
      peer_tls: certificates for the way to engines in other processes; None is without TLS.
      host: address at which other processes reach this one, should they pull KV from it.

    Raises:
      InvalidArgument: model, limits and machine do not go together; the message says what to change.
    """
    report = progress or _ignore
    if config.kv_transport == "jax":
        check_host(host, has_tls=peer_tls is not None)
    if config.policy not in POLICIES:
        raise InvalidArgument(f"--policy is {config.policy!r}, but must be one of {', '.join(sorted(POLICIES))}")
    leader = None if config.world is None else lead(config)
    built = build_all(config, report, leader)
    model, sizes = built[0].model, built[0].sizes
    roles = [role for role, _ in config.engine_slices]
    known: dict[MachineKey, CostModel] = {}
    units = []
    for index, (role, one) in enumerate(zip(roles, built, strict=True)):
        engine, its_costs = (one.engine, costs) if costs is not None else _costs_of(config, one, known, report)
        if wrap_engine is not None:
            engine = wrap_engine(engine)
        scheduler = Scheduler(scheduler_config(config, one, role, index), its_costs)
        units.append(EngineUnit(engine, scheduler, role, one.engine))
    first_costs = units[0].scheduler.costs
    peers = _peers_of(config, built[0], units[0], peer_tls) if config.peers else None
    if peers is not None:
        units += peers.units(len(built))
    default_max_tokens = min(config.default_max_tokens, max(1, sizes.max_model_len // 2))
    max_sessions = max(
        sum(unit.scheduler.config.max_sessions for unit in units if unit.role != other)
        for other in ("prefill", "generate")
    )
    limits = OrchestratorConfig(
        max_sessions=max_sessions,
        max_waiting=max_sessions,
        default_max_tokens=default_max_tokens,
        limit_max_tokens=sizes.max_model_len,
        idle_timeout_s=config.idle_timeout_s,
        step_timeout_s=config.step_timeout_s,
        send_ahead=config.send_ahead,
    )
    transport = None if peers is None else transport_between(config.kv_transport, peers.engines, host)
    orchestrator = Orchestrator(units, model.tokenizer, limits, transport=transport)
    orchestrator.start(lambda done, total, name: report("compile", done, total, name))
    if peers is not None:
        peers.watch(orchestrator, len(built))
    info = _model_info(model, sizes, default_max_tokens, config.policy)
    places = [*(", ".join(map(str, one.devices)) for one in built), *config.peer_addresses]
    deployed = tuple((unit.role, place) for unit, place in zip(units, places, strict=True))
    return Assembly(orchestrator, info, model.tokenizer, model.chat_template, sizes, first_costs, deployed, leader)


def _peers_of(config: ServeConfig, built: Built, unit: EngineUnit, tls: ClientTls | None) -> Peers:
    model = built.model
    own = description_of(unit.role, model.config, built.sizes, model.quantization, version("s2l-jax"))
    return Peers(config.peer_addresses, own, unit.scheduler.config, unit.scheduler.costs, tls)


def _costs_of(
    config: ServeConfig, built: Built, known: dict[MachineKey, CostModel], report: Progress
) -> tuple[Engine, CostModel]:
    """The engine to warm up, and its costs; engines of one kind are measured once, by the first to be warm."""
    key = _profile_key(built.model, built.sizes, built.devices)
    engine: Engine = built.engine
    if key not in known:
        engine, known[key] = machine_costs(
            engine, built.sizes, key, config.profile_dir, lambda done: report("measure", done, 1, "")
        )
    return engine, known[key]


def _engine_config(
    config: ServeConfig, model: LoadedModel, dtype: str, devices: tuple[jax.Device, ...], engines: int
) -> EngineConfig:
    longest = model.config.max_position
    max_model_len = config.max_model_len or longest
    if max_model_len > longest:
        raise InvalidArgument(
            f"--max-model-len is {max_model_len}, but {model.config.name} was made for {longest} tokens at most"
        )
    on_cpu = devices[0].platform == "cpu"
    num_blocks = config.kv_blocks or blocks_that_fit(
        model.config,
        block_size=config.block_size,
        dtype=dtype,
        max_sessions=config.max_sessions,
        max_model_len=max_model_len,
        devices=devices,
        engines=engines,
    )
    one_block_bytes = block_bytes(model.config, config.block_size, dtype)
    return EngineConfig(
        num_blocks=num_blocks,
        block_size=config.block_size,
        token_budget=config.token_budget,
        max_batch=config.max_batch,
        max_sessions=config.max_sessions,
        max_model_len=max_model_len,
        dtype=dtype,
        host_blocks=_host_blocks(config.host_kv_gib, num_blocks, engines * one_block_bytes, on_cpu=on_cpu),
        host_memory="numpy" if on_cpu else "pinned_host",
        cache_dir=config.cache_dir,
    )


def _host_blocks(host_kv_gib: float | None, num_blocks: int, one_block_bytes: int, *, on_cpu: bool) -> int:
    """Blocks of a host pool: what was asked for, or a share of the host's memory, which on a CPU is the device's.

    Engines share it, so for several of them a block takes as many times what it takes in one.
    """
    if host_kv_gib is not None:
        return int(host_kv_gib * 2**30) // one_block_bytes
    share = _CPU_HOST_KV_SHARE if on_cpu else _HOST_KV_SHARE
    fit = int(host_bytes() * share) // one_block_bytes
    return min(fit, num_blocks if on_cpu else _HOST_BLOCKS_PER_BLOCK * num_blocks)


def _profile_key(model: LoadedModel, sizes: EngineConfig, devices: tuple[jax.Device, ...]) -> MachineKey:
    name = device_name(devices[0].platform, devices[0].device_kind)
    shape = f"{model.config.num_layers}x{model.config.hidden_size}"
    processes = "" if jax.process_count() == 1 else f" of {jax.process_count()} processes"
    return MachineKey(
        model=" ".join(filter(None, (model.config.name, shape, model.quantization))),
        device=name if len(devices) == 1 else f"{len(devices)} x {name}{processes}",
        dtype=sizes.dtype,
        block_size=sizes.block_size,
        host_memory=sizes.host_memory if sizes.host_blocks else "",
        version=version("s2l-jax"),
    )


def _model_info(model: LoadedModel, sizes: EngineConfig, default_max_tokens: int, policy: str) -> ModelInfo:
    tokenizer = model.tokenizer
    return ModelInfo(
        name=model.config.name,
        max_model_len=sizes.max_model_len,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_ids=tuple(sorted(tokenizer.eos_token_ids)),
        default_max_tokens=default_max_tokens,
        prompt=_prompt_pieces(model),
        server_version=version("s2l-jax"),
        policy=policy,
    )


def _prompt_pieces(model: LoadedModel) -> PromptPieces:
    if model.chat_template is None:
        return PromptPieces(add_bos=model.tokenizer.adds_bos)
    return pieces_of_template(model.chat_template.render)


def _ignore(stage: str, done: int, total: int, detail: str) -> None:
    """Reports to nobody."""
