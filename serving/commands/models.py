"""`s2l models`: which models there are, what they are, and whether they work here."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

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
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(epilog="Examples: s2l models list; s2l models info smollm2-135m; s2l models check ./my-model --json")
def models() -> None:
    """List models, describe one, or check that one works here."""


@models.command("list")
@_json_option
def list_command(as_json: bool) -> None:
    """List the models that have a name. A Hugging Face directory can be given instead of a name anywhere."""
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
@_cache_dir_option
@_json_option
def info(name: str, dtype: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Describe NAME, a model's name or a directory: shape, size, memory per token, tokenizer, origin."""
    from s2l_jax.models.model_check import describe
    from s2l_jax.models.registry import load

    facts = describe(load(name, dtype=dtype, cache_dir=cache_dir))
    if as_json:
        _print_json(facts)
    else:
        _print_table(("", facts["name"]), [(key.replace("_", " "), _shown(value)) for key, value in facts.items()])


@models.command()
@click.argument("name")
@_dtype_option
@_cache_dir_option
@_json_option
def check(name: str, dtype: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Check that NAME, a model's name or a directory, loads, is complete, and writes text.

    Exits with 1 if any check fails.
    """
    from s2l_jax.models.model_check import ModelCheck

    results = list(ModelCheck(name, dtype=dtype, cache_dir=cache_dir).run())
    passed = all(result.passed for result in results)
    if as_json:
        _print_json({"name": name, "passed": passed, "checks": [asdict(result) for result in results]})
    else:
        rows = [(r.check, "ok" if r.passed else "FAILED", f"{r.seconds:.2f}", r.detail) for r in results]
        _print_table(("check", "result", "seconds", "detail"), rows)
    if not passed:
        raise click.exceptions.Exit(1)


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
