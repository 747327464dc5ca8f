"""Makes all executables ahead of traffic: from the store if it has them, else by compiling."""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from jax.stages import Compiled, Lowered

from s2l_jax.engine.executable_store import ExecutableStore
from s2l_jax.engine.protocol import Progress

type Lower = Callable[[], Lowered]


def compile_all(
    lowers: Mapping[str, Lower],
    *,
    store: ExecutableStore | None,
    compiler_options: Mapping[str, object],
    threads: int,
    progress: Progress,
) -> dict[str, Compiled]:
    """Loads or compiles executables.

    Tracing holds the interpreter lock, so it stays on the calling thread; XLA releases it and runs on `threads` others.

    Args:
      lowers: what traces and lowers each executable, by name.
      store: where to look first and what to fill.
      compiler_options: for XLA.
      threads: executables compiled at the same time.
      progress: called on this thread as each is ready.
    """
    ready: dict[str, Compiled] = {}

    def add(name: str, compiled: Compiled) -> None:
        ready[name] = compiled
        progress(len(ready), len(lowers), name)

    def compile_one(name: str, lowered: Lowered) -> tuple[str, Compiled]:
        compiled = lowered.compile(compiler_options=dict(compiler_options))
        if store is not None:
            store.save(name, lowered, compiled)
        return name, compiled

    with ThreadPoolExecutor(threads, thread_name_prefix="compile") as pool:
        running: set[Future[tuple[str, Compiled]]] = set()
        for name, lower in lowers.items():
            kept = store.recall(name) if store is not None else None
            if kept is None:
                lowered = lower()
                kept = store.find(name, lowered) if store is not None else None
            if kept is not None:
                add(name, kept)
                continue
            running.add(pool.submit(compile_one, name, lowered))
            # Lowered modules are large: never trace far ahead of the compiler.
            done, running = wait(running, timeout=0 if len(running) <= threads else None, return_when=FIRST_COMPLETED)
            for future in done:
                add(*future.result())
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                add(*future.result())
    if store is not None:
        store.close()
    return ready
