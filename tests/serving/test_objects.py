"""Sessions leave no objects behind, however they come and end."""

import gc
from collections import Counter

import httpx2

from serving.client import AsyncClient, SamplingParams
from tests.serving.harness import eventually, run
from tests.serving.http.http_harness import HttpWorld, http_world

ROUND = 12
OURS = ("s2l_jax.", "serving.")


def _objects() -> Counter[type]:
    """Objects of this project's classes."""
    gc.collect()
    kinds = Counter(map(type, gc.get_objects()))
    return Counter({kind: number for kind, number in kinds.items() if str(kind.__module__).startswith(OURS)})


async def _round(client: AsyncClient, http: httpx2.AsyncClient, world: HttpWorld) -> None:
    params = SamplingParams(max_tokens=4)
    prompt = {"prompt": "abc", "max_tokens": 4}
    for _ in range(ROUND):
        async with client.session(params) as session:
            await session.append("abc")
            await session.finish()
            await session.result()
        async with client.session(params) as session:
            await session.append("abc")  # leaving cancels it
        assert (await http.post("/v1/completions", json=prompt)).status_code == 200
        assert (await http.post("/v1/completions", json=prompt | {"stream": True})).status_code == 200
        assert (await http.post("/v1/completions", json=prompt | {"prompt": ""})).status_code == 400
        opened = (await http.post("/v1/sessions", json={"content": "abc", "final": True})).json()["session_id"]
        assert (await http.get(f"/v1/sessions/{opened}/output")).status_code == 200
        opened = (await http.post("/v1/sessions", json={"content": "abc"})).json()["session_id"]
        assert (await http.delete(f"/v1/sessions/{opened}")).status_code == 204
    await eventually(world.behind.is_empty)


def test_a_second_round_of_sessions_leaves_no_more_objects_than_the_first() -> None:
    async def scenario() -> None:
        async with http_world() as world, AsyncClient(world.behind.target) as client, world.client() as http:
            await _round(client, http, world)
            before = _objects()
            assert before.total() > 10  # so that they are found
            await _round(client, http, world)
            left: Counter[type] = Counter()

            def is_flat() -> bool:
                nonlocal left
                left = _objects() - before
                return max(left.values(), default=0) < ROUND // 2

            try:
                await eventually(is_flat)
            except TimeoutError:
                raise AssertionError(f"left behind: {left.most_common(5)}") from None

    run(scenario)
