"""`s2l models`: which models there are, what they are, and whether they work here."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from serving.config import QUANTIZATIONS

_cache_dir_option = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Where converted weights are kept.  [default: ~/.cache/s2l]",
)
_dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of weights and KV.  [default: float32 on CPU, bfloat16 elsewhere]",
)
_quantization_option = click.option(
    "--quantization", type=click.Choice(QUANTIZATIONS), help="Quantise weights.  [default: as they are]"
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(
    epilog="Examples: s2l models list; s2l models check ./my-model --json; s2l models convert ./my-model ./out"
)
def models() -> None:
    """List models, describe one, check that one works here, or convert one to a checkpoint."""


@models.command("list")
@_json_option
def list_command(as_json: bool) -> None:
    """List the models that have a name.

    A Hugging Face directory, a checkpoint or a GGUF file can be given instead of a name anywhere.
    """
    from s2l_jax.models.registry import list_models

    entries = list_models()
    if as_json:
        _print_json([asdict(entry) for entry in entries])
        return
    rows = [(entry.name, "yes" if entry.available else "no", entry.licence, entry.summary) for entry in entries]
    _print_table(("name", "installed", "licence", "what it is"), rows)


@models.command()
@click.argument("name")
@_dtype_option
@_quantization_option
@_cache_dir_option
@_json_option
def info(name: str, dtype: str | None, quantization: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Describe NAME, a model's name or a path: shape, size, memory per token, tokenizer, origin."""
    from s2l_jax.models.model_check import describe
    from s2l_jax.models.registry import load

    facts = describe(load(name, dtype=dtype, quantization=quantization, cache_dir=cache_dir))
    if as_json:
        _print_json(facts)
    else:
        _print_table(("", facts["name"]), [(key.replace("_", " "), _shown(value)) for key, value in facts.items()])


@models.command()
@click.argument("name")
@_dtype_option
@_quantization_option
@_cache_dir_option
@_json_option
def check(name: str, dtype: str | None, quantization: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Check that NAME, a model's name or a path, loads, is complete, and writes text.

    Exits with 1 if any check fails.
    """
    from s2l_jax.models.model_check import ModelCheck

    results = list(ModelCheck(name, dtype=dtype, quantization=quantization, cache_dir=cache_dir).run())
    passed = all(result.passed for result in results)
    if as_json:
        _print_json({"name": name, "passed": passed, "checks": [asdict(result) for result in results]})
    else:
        rows = [(r.check, "ok" if r.passed else "FAILED", f"{r.seconds:.2f}", r.detail) for r in results]
        _print_table(("check", "result", "seconds", "detail"), rows)
    if not passed:
        raise click.exceptions.Exit(1)


@models.command(
    epilog="Example: s2l models convert smollm2-135m ./smollm2 --quantization int8; s2l serve --model ./smollm2"
)
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of weights that are not quantised.  [default: that of the source]",
)
@_quantization_option
@click.option(
    "--pieces",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="Pieces that arrays are cut into. A server on as many devices, or fewer, reads no more than it needs.",
)
@_cache_dir_option
@click.option("--quiet", is_flag=True, help="No progress bar.")
def convert(
    source: str,
    out: Path,
    dtype: str | None,
    quantization: str | None,
    pieces: int,
    cache_dir: Path | None,
    quiet: bool,
) -> None:
    """Write SOURCE (a model's name, a Hugging Face directory, a GGUF file or a checkpoint) as a checkpoint into OUT.

    A checkpoint is sharded (orbax), with configuration, tokenizer and chat template beside the weights. `s2l serve
    --model OUT` restores it on any number of devices.
    """
    import jax

    from s2l_jax.models.checkpoint_writer import write_checkpoint
    from s2l_jax.models.registry import load

    jax.config.update("jax_platforms", "cpu")  # an accelerator that another process uses is not touched
    jax.config.update("jax_num_cpu_devices", pieces)
    with _bytes_bar("Converting", quiet=quiet) as report:
        model = load(source, cache_dir=cache_dir)
        manifest = write_checkpoint(
            model, out, dtype=dtype, quantization=quantization, devices=jax.devices("cpu"), progress=report
        )
    kind = manifest.dtype if manifest.quantization is None else f"{manifest.quantization} and {manifest.dtype}"
    size_gb = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e9
    click.echo(f"{out}: {manifest.name}, {kind}, {size_gb:.2f} GB  -  try: s2l serve --model {out}")


@contextlib.contextmanager
def _bytes_bar(label: str, *, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A bar of bytes with the time that is left, on stderr; a line where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bars = Progress(
        TextColumn(label),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[item]}"),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    if bars.disable and not quiet:
        console.print(f"{label} ...")
    with bars:
        task = bars.add_task(label, total=None, item="")
        yield lambda done, total, item: bars.update(task, completed=done, total=total, item=item)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return str(value)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
