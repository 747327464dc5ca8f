"""What the picker of a Gateway API inference extension is told, against what servers and their pods are."""

from typing import cast

import yaml

from serving.http.metrics import metric_routes
from serving.metrics.declared import METRICS
from serving.metrics.exposition import Exposition
from tests.serving.deploy.command_lines import DEPLOY
from tests.serving.deploy.manifests import by_kind, container, read

VALUES = yaml.safe_load((DEPLOY / "gateway" / "llm-d-router.yaml").read_text())["router"]
MANIFESTS = read((DEPLOY / "manifests" / "gpu-h100-separate.yaml").read_text())
# What a picker reads of servers of type vllm: docs/proposals/003-model-server-protocol of the inference extension.
READ_BY_PICKERS = (
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info",
)


def test_the_pool_has_the_servers_pods() -> None:
    labels = by_kind(MANIFESTS)["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert VALUES["modelServers"]["matchLabels"].items() <= labels.items()
    (port,) = VALUES["modelServers"]["targetPorts"]
    assert port["number"] in {each["containerPort"] for each in container(MANIFESTS)["ports"] if each["name"] == "http"}


def test_the_picker_finds_its_metrics() -> None:
    source = VALUES["epp"]["metricsDataSource"]
    assert source["path"] in {route.path for route in metric_routes(cast(Exposition, None)).routes}
    assert source["scheme"] == "http"
    assert VALUES["modelServers"]["type"] == "vllm"
    assert "--vllm-metrics" in container(MANIFESTS)["args"]
    exported = {metric.vllm for metric in METRICS}
    assert set(READ_BY_PICKERS) <= exported
