"""Writes the server's OpenAPI schema as tables, in place of `<!-- endpoints -->`, and as a file beside the pages."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_MARK = "<!-- endpoints -->"
Schema = dict[str, Any]


def server_schema() -> Schema:
    """The schema of `s2l serve`, of which no more than its version depends on a running server."""
    from serving.client import ModelInfo, PromptPieces
    from serving.http.app import make_app

    model = ModelInfo("model", 1, 1, None, (), 1, PromptPieces(), version("s2l-jax"), "s2l")
    backend = Mock(model=model, origins=())
    return make_app(backend, Mock(), max_body_bytes=1, receive_timeout_s=1.0, open_paths=()).openapi()


def tables(schema: Schema) -> str:
    """All paths, each with its parameters, fields and answers, and then the objects that they name."""
    lines: list[str] = []
    for path, methods in sorted(schema["paths"].items()):
        for method, operation in methods.items():
            lines += [f"## `{method.upper()} {path}`", "", operation.get("description") or operation["summary"], ""]
            lines += _parameters(operation)
            lines += _content("Body", operation.get("requestBody", {}))
            for status, answer in sorted(operation["responses"].items()):
                if status.startswith("2"):
                    lines += _content(f"Answer {status}", answer)
    lines += ["## Objects", ""]
    for name, one in sorted(schema["components"]["schemas"].items()):
        lines += [f"### {name}", "", one.get("description", ""), "", *_fields(one)]
    return "\n".join(lines)


def _parameters(operation: Schema) -> Iterator[str]:
    if "parameters" in operation:
        yield from ("| parameter | in | type | |", "|---|---|---|---|")
        for one in operation["parameters"]:
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {_line(one.get('description', ''))} |"
        yield ""


def _content(title: str, holder: Schema) -> Iterator[str]:
    for kind, content in holder.get("content", {}).items():
        yield from (f"{title}: `{kind}`, {_type(content.get('schema', {}))}", "")


def _fields(schema: Schema) -> Iterator[str]:
    if "properties" not in schema:
        yield from (_type(schema), "")
        return
    yield from ("| field | type | default | |", "|---|---|---|---|")
    required = schema.get("required", ())
    for name, one in schema["properties"].items():
        default = "required" if name in required else f"`{json.dumps(one['default'])}`" if "default" in one else ""
        yield f"| `{name}` | {_type(one)} | {default} | {_line(one.get('description', ''))} |"
    yield ""


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(_type(one) for one in schema[word])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [
        f"{sign} {schema[key]:,}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([kind, *bounds])


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _read(app: "Sphinx", page: str, source: list[str]) -> None:
    if _MARK in source[0]:
        schema = server_schema()
        Path(app.outdir).mkdir(parents=True, exist_ok=True)
        Path(app.outdir, "openapi.json").write_text(json.dumps(schema, indent=1), encoding="utf-8")
        source[0] = source[0].replace(_MARK, tables(schema))


def setup(app: "Sphinx") -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
