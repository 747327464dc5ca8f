"""Reads Kubernetes manifests and holds them against their schemas."""

from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.serving.deploy.custom_resources import SCHEMAS

# The oldest one that the chart is for, and the newest one whose schemas there are.
KUBERNETES_VERSIONS = ("1.30", "1.37")

Manifest = dict[str, Any]


def read(text: str) -> list[Manifest]:
    """The documents of a YAML text, without empty ones."""
    return [document for document in yaml.safe_load_all(text) if document is not None]


def validate(manifest: Manifest, version: str) -> None:
    """Holds a manifest against the schema of its kind, in which no unknown field is allowed.

    Raises:
      jsonschema.ValidationError: it does not fit.
      kubernetes_validate.SchemaNotFoundError: there is no such kind.
    """
    schema = SCHEMAS.get(manifest["kind"])
    if schema is None:
        kubernetes_validate.validate(manifest, version, strict=True)
    else:
        jsonschema.validate(manifest, schema)


def by_kind(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Manifests by kind, of which there is one each."""
    found = {manifest["kind"]: manifest for manifest in manifests}
    assert len(found) == len(manifests), "one of each kind"
    return found


def container(manifests: list[Manifest]) -> dict[str, Any]:
    """The server's container."""
    (found,) = pod(manifests)["containers"]
    return found


def pod(manifests: list[Manifest]) -> dict[str, Any]:
    """What a pod of the deployment is."""
    return by_kind(manifests)["Deployment"]["spec"]["template"]["spec"]
