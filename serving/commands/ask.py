"""`s2l ask`: a question about context that is fetched while the model reads."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import click

from serving.commands.access import Access, access_options
from serving.config import DEFAULT_MODEL, ServeConfig

if TYPE_CHECKING:
    from serving.client import AsyncClient, Result, SamplingParams
    from serving.commands.sources import Arrival

IN_PROCESS = "in-process"
_DEFAULT_TARGET = "grpc://127.0.0.1:9000"
_CONNECT_TIMEOUT_S = 3.0


@dataclass(slots=True)
class _Reading:
    """What was read: sources that arrived, and the problems of those that did not."""

    sources: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


@click.command(
    epilog="Examples: s2l ask 'Who wrote this?' --context notes.txt --context https://example.org/page.html; "
    "tail -n 100 server.log | s2l ask 'What went wrong?' --stdin"
)
@click.argument("question")
@click.option("--context", "sources", multiple=True, metavar="FILE|URL", help="Read this; may be given several times.")
@click.option("--stdin", "with_stdin", is_flag=True, help="Read standard input, line by line as it comes.")
@click.option("--target", default=_DEFAULT_TARGET, show_default=True, help=f"A server, or {IN_PROCESS}: no server.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help=f"With --target {IN_PROCESS}: what to load.")
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(1), help="Length of the answer.")
@click.option("--temperature", default=0.0, show_default=True, help="0 always takes the likeliest token.")
@click.option("--limit-chars", type=click.IntRange(1), help="Characters taken of each source.  [default: all]")
@click.option("--timeout-s", default=30.0, show_default=True, help="For fetching each URL.")
@access_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the answer as it comes.")
def ask(
    question: str,
    sources: tuple[str, ...],
    with_stdin: bool,
    target: str,
    model: str,
    max_tokens: int,
    temperature: float,
    limit_chars: int | None,
    timeout_s: float,
    as_json: bool,
    access: Access,
) -> None:
    """Ask a question about files, web pages and standard input.

    All sources are fetched at once, and each is sent to the model as soon as it is there, so the model has read most of
    them when the last one arrives. The answer goes to standard output, everything else to standard error.
    """
    from s2l_jax.core.errors import InvalidArgument
    from serving.client import SamplingParams
    from serving.commands.sources import arrivals, check_sources

    if not sources and not with_stdin:
        raise InvalidArgument("there is no context: give --context FILE or URL, or --stdin")
    check_sources(sources)
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    reading = _Reading()

    async def run() -> "Result":
        async with _connect(target, model, access) as client:
            arriving = arrivals(sources, with_stdin=with_stdin, timeout_s=timeout_s, limit_chars=limit_chars)
            async with contextlib.aclosing(arriving):
                return await _ask(client, question, _documents(arriving, reading), params, show=not as_json)

    result = asyncio.run(run())
    if as_json:
        click.echo(json.dumps(_as_json(question, result, reading), indent=2))
    else:
        click.echo("")
        click.echo(_summary(result, reading), err=True)


@contextlib.asynccontextmanager
async def _connect(target: str, model: str, access: Access) -> "AsyncIterator[AsyncClient]":
    from s2l_jax.core.errors import Unavailable
    from serving.client import AsyncClient

    if target == IN_PROCESS:
        async with _server_in_process(model) as address, AsyncClient(address) as client:
            yield client
        return
    async with AsyncClient(target, api_key=access.api_key, tls=access.tls) as client:
        if not await client.wait_ready(_CONNECT_TIMEOUT_S):
            raise Unavailable(
                f"no server answers at {target}: start one with `s2l serve`, or ask with --target {IN_PROCESS}"
            )
        yield client


@contextlib.asynccontextmanager
async def _server_in_process(model: str) -> AsyncIterator[str]:
    """A server of this process, on a port that nobody else knows; yields its address."""
    from serving.assembly import assemble
    from serving.commands.progress import progress_bars
    from serving.grpc.server import GrpcConfig, GrpcServer

    with progress_bars(quiet=False) as progress:
        assembly = await asyncio.to_thread(assemble, ServeConfig(model=model), progress)
    server = GrpcServer(assembly.orchestrator, assembly.model, GrpcConfig(port=0))
    try:
        yield f"127.0.0.1:{await server.start()}"
    finally:
        await server.stop(0.0)


async def _documents(arriving: "AsyncIterator[Arrival]", reading: _Reading) -> AsyncIterator[str]:
    """Text to put into the prompt, piece by piece; tells standard error about each source."""
    from serving.client.prompt import document
    from serving.commands.sources import STDIN

    async for arrival in arriving:
        if arrival.problem is not None:
            reading.problems[arrival.source] = arrival.problem
            click.echo(f"! {arrival.source}: {arrival.problem}", err=True)
        if not arrival.text:
            continue
        if arrival.source == STDIN:
            is_first = STDIN not in reading.sources
            yield arrival.text
        else:
            is_first = True
            click.echo(f"+ {arrival.source} ({len(arrival.text)} characters)", err=True)
            yield document(arrival.source, arrival.text)
        if is_first:
            reading.sources.append(arrival.source)


async def _ask(
    client: "AsyncClient", question: str, documents: AsyncIterator[str], params: "SamplingParams", *, show: bool
) -> "Result":
    from s2l_jax.core.errors import InvalidArgument

    pieces = (await client.model()).prompt
    async with client.session(params, content=pieces.before_context, add_bos=pieces.add_bos) as session:
        is_empty = True
        async for text in documents:
            is_empty = False
            await session.append(text)
        if is_empty:
            raise InvalidArgument("none of the sources could be read, so there is nothing to ask about")
        await session.append(pieces.tail(question), final=True)
        async for token in session.tokens():
            if show:
                click.echo(token.text, nl=False)
        return await session.result()


def _summary(result: "Result", reading: _Reading) -> str:
    done = result.done
    if result.ttft_final_s is None or result.ttft_open_s is None:
        return "no token came"
    return (
        f"{done.prompt_tokens} tokens of context from {len(reading.sources)} source(s), "
        f"{done.output_tokens} tokens of answer\n"
        f"first token {result.ttft_final_s:.2f} s after the last source, {result.ttft_open_s:.2f} s after the question"
    )


def _as_json(question: str, result: "Result", reading: _Reading) -> dict[str, object]:
    return {
        "question": question,
        "answer": result.text,
        "finish_reason": result.finish_reason,
        "ttft_final_s": result.ttft_final_s,
        "ttft_open_s": result.ttft_open_s,
        "server": asdict(result.done),
        "sources": reading.sources,
        "problems": reading.problems,
    }
