"""One side of engine_cpu.py: loads one engine, does the job's work on it, and prints a line of JSON for each figure.

Runs in the environment of its engine (Python 3.11 or newer), so it needs no more than numpy and that engine. An engine
here is a function from prompts and a number of tokens to greedy continuations; time is taken outside, the same for all.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Prompt = list[int]
Continuation = tuple[int, str]
"""How many tokens were generated, and their text."""
Generate = Callable[[list[Prompt], int], list[Continuation]]
"""Continues each prompt greedily by a number of tokens, all at the same time."""
EngineFor = Callable[[int, int], Generate]
"""Takes the number of sequences and the length of the longest, prompt and output together."""


@contextmanager
def s2l(job: Job) -> Iterator[EngineFor]:
    """The project's scheduler and engine, in the sizes that `s2l serve` takes."""
    import jax

    from s2l_jax.core.config import SchedulerConfig
    from s2l_jax.core.ids import SessionId
    from s2l_jax.core.params import SamplingParams
    from s2l_jax.core.scheduler import Scheduler
    from s2l_jax.engine.config import EngineConfig
    from s2l_jax.engine.engine import JaxEngine
    from s2l_jax.engine.memory import blocks_that_fit
    from s2l_jax.models import registry
    from serving.config import ServeConfig

    served = ServeConfig(model="smollm2-135m", dtype=job["dtype"])
    loaded = registry.load(served.model, dtype=served.dtype)
    shared: dict[str, Any] = {
        "block_size": served.block_size,
        "max_sessions": served.max_sessions,
        "max_model_len": loaded.config.max_position,
    }
    num_blocks = blocks_that_fit(loaded.config, dtype=job["dtype"], devices=jax.devices()[:1], **shared)
    shared |= {"num_blocks": num_blocks, "token_budget": served.token_budget, "max_batch": served.max_batch}
    sizes = EngineConfig(dtype=job["dtype"], cache_dir=served.cache_dir, **shared)
    engine = JaxEngine(loaded.build(), loaded.config, sizes)
    engine.warmup(lambda done, total, name: print(f"compile {done} of {total}: {name}", file=sys.stderr))

    def generate(prompts: list[Prompt], count: int) -> list[Continuation]:
        scheduler = Scheduler(SchedulerConfig(policy=served.policy, **shared))
        params = SamplingParams(max_tokens=count, ignore_eos=True)
        tokens: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            session_id = SessionId(str(index))
            tokens[session_id] = []
            scheduler.open(session_id, prompt, params, time.monotonic(), final=True)
        while (plan := scheduler.plan(time.monotonic())) is not None:
            for output in scheduler.commit(engine.execute(plan), time.monotonic()):
                tokens[output.session_id].append(output.token.token_id)
        return [(len(ids), loaded.tokenizer.decode(ids)) for ids in tokens.values()]

    yield lambda batch, max_len: generate
    engine.close()


@contextmanager
def vllm(job: Job) -> Iterator[EngineFor]:
    """The vLLM engine, in this process, so that its scheduler does not compete with its own arithmetic."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(
        model=job["directory"],
        dtype=job["dtype"],
        max_model_len=job["max_len"],
        max_num_seqs=job["max_batch"],
        enable_prefix_caching=False,
        enforce_eager=True,
        seed=0,
    )

    def generate(prompts: list[Prompt], count: int) -> list[Continuation]:
        params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        outputs = llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], params, use_tqdm=False)
        return [(len(output.outputs[0].token_ids), output.outputs[0].text) for output in outputs]

    yield lambda batch, max_len: generate


@contextmanager
def llamacpp(job: Job) -> Iterator[EngineFor]:
    """llama.cpp's server called in process. Its slots share the context evenly, so each batch size gets a server."""
    import xllamacpp

    servers: list[Any] = []

    def engine_for(batch: int, max_len: int) -> Generate:
        servers.clear()
        params = xllamacpp.CommonParams()
        params.model.path = job["gguf"]
        params.n_parallel = batch
        params.n_ctx = batch * -(-max_len // 256) * 256
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = job["threads"]
        params.cpuparams_batch.n_threads = job["threads"]
        servers.append(xllamacpp.Server(params))
        pool = ThreadPoolExecutor(batch)

        def complete(prompt: list[int], count: int) -> Continuation:
            request = {"prompt": prompt, "n_predict": count, "temperature": 0.0, "ignore_eos": True}
            answer = servers[0].handle_completions(request | {"cache_prompt": False})
            return answer["usage"]["completion_tokens"], answer["choices"][0]["text"]

        return lambda prompts, count: list(pool.map(complete, prompts, [count] * len(prompts)))

    yield engine_for
    servers.clear()


ENGINES = {"s2l": s2l, "vllm": vllm, "llamacpp": llamacpp}


def main() -> None:
    """Reads a job file; writes its messages where standard output was at the start, for engines print there too."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = json.loads(Path(sys.argv[1]).read_text())

    def tell(**message: object) -> None:
        print(json.dumps(message), file=out)

    with ENGINES[job["engine"]](job) as engine_for:
        for case in job["cases"]:
            prompts, decoded = case["prompts"], case["decoded_tokens"]
            generate = engine_for(len(prompts), len(prompts[0]) + decoded + 1)
            generate(prompts[:1], 2)
            for _ in range(job["repeats"]):
                first_s, text = timed(generate, prompts, 1)
                if decoded:
                    all_s, text = timed(generate, prompts, 1 + decoded)
                    tell(case=case["name"], first_s=first_s, all_s=all_s, text=text)
                else:
                    tell(case=case["name"], first_s=first_s, text=text)


def timed(generate: Generate, prompts: list[Prompt], count: int) -> tuple[float, str]:
    """Seconds that it takes, and the first prompt's continuation."""
    started_s = time.perf_counter()
    continuations = generate(prompts, count)
    seconds = time.perf_counter() - started_s
    lengths = [tokens for tokens, _ in continuations]
    if lengths != [count] * len(prompts):
        raise RuntimeError(f"asked for {count} tokens each, got {lengths}")
    return seconds, continuations[0][1]


if __name__ == "__main__":
    main()
