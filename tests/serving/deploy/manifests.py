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
    if manifest["kind"] == "LeaderWorkerSet":
        for name in ("leaderTemplate", "workerTemplate"):
            template = manifest["spec"]["leaderWorkerTemplate"][name]
            wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
            kubernetes_validate.validate(wrapped, version, strict=True)


def by_kind(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Manifests of the server by kind, of which there is one each; those of other parts are left out."""
    of_server = [manifest for manifest in manifests if part(manifest) == "server"]
    found = {manifest["kind"]: manifest for manifest in of_server}
    assert len(found) == len(of_server), "one of each kind"
    return found


def part(manifest: Manifest) -> str:
    """Of which part of a deployment a manifest is."""
    name: str = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
    return name


def container(manifests: list[Manifest]) -> dict[str, Any]:
    """The server's container."""
    return only_container(pod(manifests))


def pod(manifests: list[Manifest]) -> dict[str, Any]:
    """What a pod of the server is."""
    spec: dict[str, Any] = pod_template(manifests)["spec"]
    return spec


def workload(manifests: list[Manifest]) -> Manifest:
    """What makes the server's pods."""
    found = by_kind(manifests)
    return found["Deployment"] if "Deployment" in found else found["LeaderWorkerSet"]


def pod_template(manifests: list[Manifest]) -> dict[str, Any]:
    """What it makes them of."""
    spec = workload(manifests)["spec"]
    template = spec["template"] if "template" in spec else spec["leaderWorkerTemplate"]["leaderTemplate"]
    assert isinstance(template, dict)
    return template


def only_container(spec: dict[str, Any]) -> dict[str, Any]:
    """The container of a pod, beside those that run before it."""
    (found,) = spec["containers"]
    assert isinstance(found, dict)
    return found
