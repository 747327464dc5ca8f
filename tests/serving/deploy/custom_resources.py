"""Schemas of the custom resources that the chart may make, which Kubernetes' own schemas do not know.

They cover the fields that the chart uses, closed against others, after the resources' definitions:

- PodMonitor: prometheus-operator 0.91, `example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml`
  at 00749296a6ed0225f09f8bd9849d764f1280d766 (Apache-2.0)
- PodMonitoring: GoogleCloudPlatform/prometheus-engine,
  `charts/operator/crds/monitoring.googleapis.com_podmonitorings.yaml`
  at 00f28d4e96f7a84a8ec11e0cd054bbe5752ba6a5 (Apache-2.0)
"""

from typing import Any

_METADATA = {"type": "object", "required": ["name"]}
_SELECTOR = {
    "type": "object",
    "required": ["matchLabels"],
    "additionalProperties": False,
    "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}},
}
_TLS = {"type": "object", "additionalProperties": False, "properties": {"insecureSkipVerify": {"type": "boolean"}}}


def _schema(api_version: str, kind: str, endpoints: str, tls: str) -> dict[str, Any]:
    endpoint = {
        "type": "object",
        "required": ["port", "interval"],
        "additionalProperties": False,
        "properties": {
            # A number is PodMonitoring's only; a port's name is taken by both.
            "port": {"type": "string"},
            "path": {"type": "string", "pattern": "^/"},
            "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
            "scheme": {"enum": ["http", "https"]},
            tls: _TLS,
        },
    }
    return {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": api_version},
            "kind": {"const": kind},
            "metadata": _METADATA,
            "spec": {
                "type": "object",
                "required": ["selector", endpoints],
                "additionalProperties": False,
                "properties": {"selector": _SELECTOR, endpoints: {"type": "array", "minItems": 1, "items": endpoint}},
            },
        },
    }


SCHEMAS = {
    "PodMonitor": _schema("monitoring.coreos.com/v1", "PodMonitor", "podMetricsEndpoints", "tlsConfig"),
    "PodMonitoring": _schema("monitoring.googleapis.com/v1", "PodMonitoring", "endpoints", "tls"),
}
