"""The one place where model, engine, scheduler and orchestrator are put together.

Servers, and replay without a server, start here. Importing this module imports the accelerator library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import jax

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.policy import POLICIES
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.engine.memory import blocks_that_fit
from s2l_jax.models import registry
from s2l_jax.models.registry import LoadedModel
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.client.prompt import PromptPieces, pieces_of_template
from serving.client.types import ModelInfo
from serving.config import ServeConfig

Progress = Callable[[str, int, int, str], None]
"""Called as `progress(stage, done, total, detail)`, possibly from other threads; stages are `load` and `compile`."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """A started orchestrator and what it serves.

    Attributes:
      orchestrator: ready for sessions; whoever assembled it closes it.
      model: what a client may know about it.
      engine: sizes that were chosen.
    """

    orchestrator: Orchestrator
    model: ModelInfo
    engine: EngineConfig


def assemble(config: ServeConfig, progress: Progress | None = None) -> Assembly:
    """Loads the model, compiles all that traffic needs, and starts the engine thread.

    Raises:
      InvalidArgument: model, limits and machine do not go together; the message says what to change.
    """
    report = progress or _ignore
    if config.policy not in POLICIES:
        raise InvalidArgument(f"--policy is {config.policy!r}, but must be one of {', '.join(sorted(POLICIES))}")
    dtype = config.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    report("load", 0, 1, config.model)
    model = registry.load(config.model, dtype=dtype)
    report("load", 1, 1, config.model)

    sizes = _engine_config(config, model, dtype)
    engine = JaxEngine(model.build(), model.config, sizes)
    scheduler = Scheduler(
        SchedulerConfig(
            num_blocks=sizes.num_blocks,
            block_size=sizes.block_size,
            token_budget=sizes.token_budget,
            max_batch=sizes.max_batch,
            max_sessions=sizes.max_sessions,
            max_model_len=sizes.max_model_len,
            policy=config.policy,
            eos_token_ids=model.config.eos_token_ids,
        )
    )
    default_max_tokens = min(config.default_max_tokens, max(1, sizes.max_model_len // 2))
    limits = OrchestratorConfig(
        max_sessions=sizes.max_sessions,
        max_waiting=sizes.max_sessions,
        default_max_tokens=default_max_tokens,
        limit_max_tokens=sizes.max_model_len,
        idle_timeout_s=config.idle_timeout_s,
    )
    orchestrator = Orchestrator(engine, scheduler, model.tokenizer, limits)
    orchestrator.start(lambda done, total, name: report("compile", done, total, name))
    return Assembly(orchestrator, _model_info(model, sizes, default_max_tokens, config.policy), sizes)


def _engine_config(config: ServeConfig, model: LoadedModel, dtype: str) -> EngineConfig:
    longest = model.config.max_position
    max_model_len = config.max_model_len or longest
    if max_model_len > longest:
        raise InvalidArgument(
            f"--max-model-len is {max_model_len}, but {model.config.name} was made for {longest} tokens at most"
        )
    num_blocks = config.kv_blocks or blocks_that_fit(
        model.config,
        block_size=config.block_size,
        dtype=dtype,
        max_sessions=config.max_sessions,
        max_model_len=max_model_len,
        device=jax.devices()[0],
    )
    return EngineConfig(
        num_blocks=num_blocks,
        block_size=config.block_size,
        token_budget=config.token_budget,
        max_batch=config.max_batch,
        max_sessions=config.max_sessions,
        max_model_len=max_model_len,
        dtype=dtype,
        cache_dir=config.cache_dir,
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
