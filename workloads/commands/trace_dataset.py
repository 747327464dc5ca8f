"""`s2l trace dataset`: makes a data set of a trace."""

from pathlib import Path

import click

from s2l_jax.core.errors import FailedPrecondition

_GENERATED = ("crawler", "anns")


@click.command(
    epilog="""\b
Examples:
  s2l trace dataset crawler
  s2l trace dataset out/search.jsonl --data-dir out/datasets"""
)
@click.argument("source", metavar="crawler|anns|FILE")
@click.option("--name", help="Of the configuration.  [default: the file's name]")
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="[default: ~/tensorflow_datasets, as for TFDS]"
)
def dataset(source: str, name: str | None, data_dir: Path | None) -> None:
    """Make a data set for tensorflow-datasets, one example a session.

    SOURCE is the file of a trace, or one of the published workloads, at its published number of queries.
    """
    try:
        from workloads.datasets.s2l_traces import TraceConfig, build_dataset
    except ModuleNotFoundError as error:
        raise FailedPrecondition(f"{error.name} is not installed: pip install 's2l-jax[datasets]'") from None

    if source in _GENERATED:
        if name is not None:
            raise click.UsageError(f"--name is for files: {source} is a name already")
        config = TraceConfig(name=source)
    else:
        path = Path(source)
        config = TraceConfig(name=name or path.name.partition(".")[0], description=f"Of {path.name}.", trace=path)
    builder = build_dataset(config, data_dir)
    sessions = builder.info.splits["train"].num_examples
    click.echo(f"{builder.data_dir}: {sessions:,} sessions in {builder.info.dataset_size / 1e6:.1f} MB")
