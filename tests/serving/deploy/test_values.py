"""The chart's values: what is given is what `s2l serve` has, and what cannot be is refused."""

import copy
import json
from typing import Any

import click
import jsonschema
import pytest
import yaml

from serving.commands.serve import serve
from tests.serving.deploy.command_lines import DEPLOY

CHART = DEPLOY / "helm" / "s2l"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
EXAMPLES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "examples").glob("*.yaml"))}
OPTIONS = {option.opts[0].removeprefix("--"): option for option in serve.params if isinstance(option, click.Option)}
GIVEN_OPTIONS = SCHEMA["properties"]["server"]["properties"]["options"]["properties"]
# The chart sets these from other values, or leaves them as they are.
OWN_OPTIONS = {
    *("model", "host", "port", "http-port", "slices", "prefill-slices", "generate-slices", "drain-timeout-s", "quiet"),
    *(
        "role",
        "peers",
        "world",
        "world-join-s",
        "api-keys",
        "open-path",
        "tls-cert",
        "tls-key",
        "tls-client-ca",
        "cache-dir",
        "ready-file",
    ),
}


def merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """As helm does it: mappings are merged, all else is replaced."""
    result = copy.deepcopy(values)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def check(over: dict[str, Any]) -> None:
    jsonschema.validate(merged(DEFAULTS, over), SCHEMA, jsonschema.Draft7Validator)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert DEFAULTS.keys() <= SCHEMA["properties"].keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_taken(name: str) -> None:
    check(EXAMPLES[name])


def test_defaults_are_taken() -> None:
    check({})


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"replica": 2}, "replica"),
        ({"accelerator": {"kind": "gpus"}}, "gpus"),
        ({"accelerator": {"kind": "gpu", "gkeTpuTopology": "2x4"}}, "2x4"),
        ({"accelerator": {"kind": "tpu", "count": 8, "gkeTpuTopology": "8"}}, "8"),
        ({"accelerator": {"count": 4}}, "4"),
        ({"engines": {"both": [0]}}, "0"),
        ({"engines": {"pods": {"own": "decode"}}}, "decode"),
        ({"engines": {"pods": {"generate": -1}}}, "-1"),
        ({"apiKeys": {"secret": "keys"}}, "secret"),
        ({"tls": {"clientCa": "ca.crt"}}, "clientCa"),
        ({"model": {"name": "meta/llama"}}, "meta/llama"),
        ({"model": {"name": "/models/llama", "volume": "claim"}}, "claimName"),
        ({"model": {"volume": "emptyDir"}}, "image"),
        ({"server": {"options": {"max-model-length": 1}}}, "max-model-length"),
        ({"server": {"options": {"host": "::"}}}, "host"),
        ({"server": {"options": {"preemption": "never"}}}, "never"),
        ({"server": {"drainTimeoutSeconds": "30s"}}, "30s"),
        ({"cache": {"kind": "claim"}}, "claimName"),
        ({"resources": {"limits": {"memory": None}}}, "None"),
        ({"autoscaling": {"averageValue": 4}}, "4"),
        ({"monitoring": {"kind": "ServiceMonitor"}}, "ServiceMonitor"),
        ({"image": {"tag": "latest"}}, "latest"),
    ],
)
def test_values_that_cannot_be_are_refused(over: dict[str, Any], message: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=message):
        check(over)


def test_options_of_the_chart_are_options_of_the_server() -> None:
    assert GIVEN_OPTIONS.keys() <= OPTIONS.keys()
    assert OPTIONS.keys() >= OWN_OPTIONS
    assert not OWN_OPTIONS & GIVEN_OPTIONS.keys()


@pytest.mark.parametrize("name", GIVEN_OPTIONS)
def test_types_of_options_are_the_servers(name: str) -> None:
    schema, option = GIVEN_OPTIONS[name], OPTIONS[name]
    if isinstance(option.type, click.Choice):
        assert sorted(schema["enum"]) == sorted(option.type.choices)
    elif option.is_flag:
        assert schema == {"type": "boolean"}
    elif option.multiple:
        assert schema["type"] == "array"
    else:
        kinds = {"integer": "integer", "float": "number", "text": "string", "directory": "string"}
        resolved = SCHEMA["definitions"]["count"] if "$ref" in schema else schema
        assert resolved["type"] == kinds[option.type.name]
