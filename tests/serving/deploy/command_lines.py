"""Finds `s2l` command lines in documents, scripts and manifests, and reads them with the real parser."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from serving.cli import cli

REPOSITORY = Path(__file__).parents[3]
DEPLOY = REPOSITORY / "serving" / "deploy"

_FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMENTED = re.compile(r"^# {2,}(.*)$", re.MULTILINE)
# The program, the image of it, and scripts that hand arguments on to `s2l serve`.
_OWN = (re.compile(r"(?:^|[|&;(])\s*(?:sudo |\w+=\S+ )*(?:\S*/)?s2l (?=[a-z])"), re.compile(r"\ss2l:\S+ (?=[a-z])"))
_HANDED_ON = (re.compile(r"s2l\.sbatch (?=-)"), re.compile(r"setup\.sh +(?:cpu|cuda|tpu) +(?=-)"))
_ENDS = {"|", "&", "&&", "||", ";", ">", "2>&1"}


def commands_of_document(path: Path) -> Iterator[list[str]]:
    """The arguments of each `s2l` in a document's shell blocks."""
    for block in _FENCE.findall(path.read_text(encoding="utf-8")):
        yield from commands_of_text(block)


def commands_of_comments(path: Path) -> Iterator[list[str]]:
    """The arguments of each `s2l` in the examples of a script, which are its indented comments."""
    yield from commands_of_text("\n".join(_COMMENTED.findall(path.read_text(encoding="utf-8"))))


def commands_of_text(text: str) -> Iterator[list[str]]:
    """The arguments of each `s2l` in a text of command lines."""
    for line in text.replace("\\\n", " ").splitlines():
        for start in (*_OWN, *_HANDED_ON):
            if (found := start.search(line)) is not None:
                words = _words(line[found.end() :])
                yield ["serve", *words] if start in _HANDED_ON else words


def parse(args: list[str]) -> None:
    """Reads arguments as `s2l` does, but looks at no file.

    Raises:
      click.UsageError: `s2l` would refuse them.
    """
    command: click.Command = cli
    context = click.Context(cli, info_name="s2l")
    rest = list(args)
    while isinstance(command, click.Group):
        name = rest.pop(0)
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"there is no command {name!r} in {args}")
        command, context = found, click.Context(found, info_name=name, parent=context)
    try:
        values, left, _ = command.make_parser(context).parse_args(rest)
        for parameter in command.get_params(context):
            is_file = isinstance(parameter.type, click.Path | click.File)
            if values.get(parameter.name) is not None and not is_file:
                parameter.type_cast_value(context, values[parameter.name])
    except click.UsageError as error:
        raise click.UsageError(f"{error.format_message()} in: s2l {shlex.join(args)}") from error
    if left:
        raise click.UsageError(f"too many arguments {left} in: s2l {shlex.join(args)}")


def _words(text: str) -> list[str]:
    words = []
    for word in shlex.split(text, comments=True):
        if word in _ENDS:
            break
        words.append(word.rstrip(";"))
    return words
