"""Schemas of the custom resources that the chart may make, which Kubernetes' own schemas do not know.

They cover the fields that the chart uses, closed against others, after the resources' definitions:

- PodMonitor: prometheus-operator 0.91, `example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml`
  at 00749296a6ed0225f09f8bd9849d764f1280d766 (Apache-2.0)
- PodMonitoring: GoogleCloudPlatform/prometheus-engine,
  `charts/operator/crds/monitoring.googleapis.com_podmonitorings.yaml`
  at 00f28d4e96f7a84a8ec11e0cd054bbe5752ba6a5 (Apache-2.0)
- LeaderWorkerSet: kubernetes-sigs/lws, `config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml`
  at 83ba21e907f84f5b713a83bd1eb39a976fde2bbc (Apache-2.0); its pods are held against Kubernetes' own schema
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


_POD_TEMPLATE = {
    "type": "object",
    "required": ["metadata", "spec"],
    "additionalProperties": False,
    "properties": {"metadata": {"type": "object"}, "spec": {"type": "object"}},
}
_LEADER_WORKER_SET = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "leaderworkerset.x-k8s.io/v1"},
        "kind": {"const": "LeaderWorkerSet"},
        "metadata": _METADATA,
        "spec": {
            "type": "object",
            "required": ["leaderWorkerTemplate"],
            "additionalProperties": False,
            "properties": {
                "replicas": {"type": "integer", "minimum": 0},
                "startupPolicy": {"enum": ["LeaderCreated", "LeaderReady"]},
                "rolloutStrategy": {
                    "type": "object",
                    "required": ["type"],
                    "additionalProperties": False,
                    "properties": {
                        "type": {"const": "RollingUpdate"},
                        "rollingUpdateConfiguration": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                name: {"type": "integer", "minimum": 0}
                                for name in ("maxSurge", "maxUnavailable", "partition")
                            },
                        },
                    },
                },
                "leaderWorkerTemplate": {
                    "type": "object",
                    "required": ["workerTemplate"],
                    "additionalProperties": False,
                    "properties": {
                        "size": {"type": "integer", "minimum": 1},
                        "restartPolicy": {"enum": ["Default", "None", "RecreateGroupOnPodRestart"]},
                        "leaderTemplate": _POD_TEMPLATE,
                        "workerTemplate": _POD_TEMPLATE,
                    },
                },
            },
        },
    },
}

SCHEMAS = {
    "LeaderWorkerSet": _LEADER_WORKER_SET,
    "PodMonitor": _schema("monitoring.coreos.com/v1", "PodMonitor", "podMetricsEndpoints", "tlsConfig"),
    "PodMonitoring": _schema("monitoring.googleapis.com/v1", "PodMonitoring", "endpoints", "tls"),
}
