"""Makes all executables ahead of traffic: from the store if it has them, else by compiling."""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from jax.stages import Compiled, Lowered

from s2l_jax.engine.executable_store import ExecutableStore
from s2l_jax.engine.protocol import Progress

type Lower = Callable[[], Lowered]


def compile_all(
    lowers: Mapping[str, Lower],
    *,
    store: ExecutableStore | None,
    threads: int,
    progress: Progress,
) -> dict[str, Compiled]:
    """Loads or compiles executables.

    Tracing holds the interpreter lock, so it stays on the calling thread; loading and compiling release it and run on
    `threads` others.

    Args:
      lowers: what traces and lowers each executable, by name.
      store: where to look first and what to fill.
      threads: executables loaded or compiled at the same time.
      progress: called on this thread as each is ready.
    """
    ready: dict[str, Compiled] = {}
    order = {name: index for index, name in enumerate(lowers)}
    untraced = list(lowers) if store is None else []
    with ThreadPoolExecutor(threads, thread_name_prefix="compile") as pool:
        running = {pool.submit(_recall, store, name) for name in lowers} if store is not None else set()
        while running or untraced:
            # Lowered modules are large: never trace far ahead of the compiler.
            while untraced and len(running) <= threads:
                name = min(untraced, key=order.__getitem__)
                untraced.remove(name)
                running.add(pool.submit(_compile, store, name, lowers[name]()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for name, compiled in (future.result() for future in done):
                if compiled is None:
                    untraced.append(name)
                    continue
                ready[name] = compiled
                progress(len(ready), len(lowers), name)
    if store is not None:
        store.close()
    return ready


def _recall(store: ExecutableStore, name: str) -> tuple[str, Compiled | None]:
    return name, store.recall(name)


def _compile(store: ExecutableStore | None, name: str, lowered: Lowered) -> tuple[str, Compiled]:
    kept = None if store is None else store.find(name, lowered)
    if kept is not None:
        return name, kept
    compiled = lowered.compile()
    if store is not None:
        store.save(name, lowered, compiled)
    return name, compiled
