"""The chart with helm itself, where it is: `make deploy-check` fetches it."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from serving.config import ServeConfig
from tests.serving.deploy.command_lines import DEPLOY, REPOSITORY, parse
from tests.serving.deploy.manifests import KUBERNETES_VERSIONS, by_kind, container, pod, read, validate

CHART = DEPLOY / "helm" / "s2l"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
_FETCHED = REPOSITORY / "out" / "tools" / "helm"
HELM = shutil.which("helm") or (str(_FETCHED) if _FETCHED.exists() else None)

pytestmark = pytest.mark.skipif(HELM is None, reason="no helm: make deploy-check fetches one")


def helm(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HELM), *args], capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=60)


def rendered(*args: str) -> str:
    result = helm("template", "s2l", str(CHART), *args)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_lint_finds_nothing(values: Path) -> None:
    result = helm("lint", "--strict", str(CHART), "--values", str(values))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[WARNING]" not in result.stdout


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_stored_manifests_are_what_helm_makes(values: Path) -> None:
    stored = (DEPLOY / "manifests" / values.name).read_text().partition("\n")[2]
    assert read(rendered("--values", str(values))) == read(stored)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("autoscaling.enabled=true", "cache.accessMode=ReadWriteMany", "cache.kind=create"),
        ("disruptionBudget.enabled=false", "networkPolicy.enabled=false", "serviceAccount.create=false"),
        ("accelerator.kind=gpu", "accelerator.count=8", "model.volume=claim", "model.claimName=models"),
        ("image.tag=abc", "podLabels.team=a", "podAnnotations.note=b", "priorityClassName=high", "replicas=3"),
        ("cache.kind=claim", "cache.claimName=kept", "service.type=LoadBalancer", "strategy.type=Recreate"),
        ("tls.secretName=cert", "apiKeys.secretName=keys", "monitoring.kind=PodMonitor"),
        ("tls.secretName=cert", "monitoring.kind=PodMonitoring"),
        ("accelerator.kind=gpu", "accelerator.count=8", "accelerator.hosts=2", "autoscaling.enabled=true"),
        ("engines.pods.own=both", "engines.pods.prefill=1", "engines.pods.generate=2", "cache.kind=emptyDir"),
    ],
    ids=lambda settings: ",".join(settings) or "defaults",
)
def test_other_values_fit_the_schemas_too(settings: tuple[str, ...]) -> None:
    named = ("serviceAccount.name=existing",) if "serviceAccount.create=false" in settings else ()
    manifests = read(rendered(*(word for setting in (*settings, *named) for word in ("--set", setting))))
    for manifest in manifests:
        for version in KUBERNETES_VERSIONS:
            validate(manifest, version)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("accelerator.kind=tpu,accelerator.count=8,accelerator.gkeTpuTopology=4x4", "all chips of a slice"),
        ("engines.prefill={1}", "go together"),
        ("engines.generate={1}", "go together"),
        ("engines.both={1},engines.prefill={1},engines.generate={1}", "without engines.both"),
        ("accelerator.kind=gpu,accelerator.count=4,engines.both={1,1}", "engines have 2 devices"),
        ("cache.kind=create,replicas=2", "ReadWriteMany"),
        ("cache.kind=create,engines.pods.generate=1", "ReadWriteMany"),
        ("accelerator.hosts=2", "for accelerators"),
        ("accelerator.kind=tpu,accelerator.hosts=2,engines.both={1,1}", "only one"),
        ("accelerator.kind=tpu,accelerator.hosts=2,strategy.type=Recreate", "LeaderWorkerSet"),
        ("accelerator.kind=tpu,accelerator.hosts=2,networkPolicy.enabled=false", "network policy"),
        ("accelerator.kind=tpu,accelerator.hosts=2,cache.kind=create", "ReadWriteMany"),
        ("engines.pods.prefill=1", "nobody who generates"),
        ("engines.pods.own=generate,engines.pods.generate=1", "nobody who computes contexts"),
        ("engines.pods.generate=1,engines.both={1}", "leave out engines.both"),
        ("engines.pods.generate=1,replicas=2", "one server"),
        ("engines.pods.generate=1,autoscaling.enabled=true", "one server"),
        ("engines.pods.generate=1,networkPolicy.enabled=false", "networkPolicy"),
        ("cache.kind=create,autoscaling.enabled=true", "ReadWriteMany"),
        ("model.name=/models/llama", "model.volume is none"),
        ("model.volume=emptyDir,model.fetch.image=a", "networkPolicy.egress"),
        ("server.options.otlp-endpoint=http://collector:4318", "networkPolicy.egress"),
        ("serviceAccount.create=false", "serviceAccount.name"),
        ("autoscaling.enabled=true,autoscaling.minReplicas=5", "less than autoscaling.minReplicas"),
        ("server.options.max-model-length=1", "max-model-length"),
        ("accelerator.kind=npu", "accelerator"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: str, message: str) -> None:
    result = helm("template", "s2l", str(CHART), "--set", settings)
    assert result.returncode != 0
    assert message in result.stderr


def test_large_numbers_and_texts_reach_the_server_as_they_are(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("server: {options: {max-model-len: 1048576, host-kv-gib: 0.5, policy: fcfs}}\n")
    args = container(read(rendered("--values", str(values))))["args"]
    assert {"--max-model-len=1048576", "--host-kv-gib=0.5", "--policy=fcfs"} <= set(args)


@pytest.mark.parametrize(
    ("settings", "slices"),
    [
        ("", []),
        ("engines.both={1,1}", ["--slices=cpu=1,cpu=1"]),
        ("engines.prefill={1},engines.generate={1}", ["--prefill-slices=cpu=1", "--generate-slices=cpu=1"]),
        ("accelerator.kind=tpu,accelerator.count=4", ["--slices=tpu=4"]),
        (
            "accelerator.kind=gpu,accelerator.count=4,engines.prefill={1,1},engines.generate={2}",
            ["--prefill-slices=gpu=1,gpu=1", "--generate-slices=gpu=2"],
        ),
    ],
)
def test_engines_become_slices(settings: str, slices: list[str]) -> None:
    args = container(read(rendered("--set", settings)))["args"]
    assert [word for word in args if "slices" in word] == slices
    ServeConfig(**{name: value for name, value in _values(args).items() if name.endswith("slices")})


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ("gateway.enabled=true", {"--vllm-metrics"}),
        ("gateway.enabled=true,apiKeys.secretName=keys", {"--vllm-metrics", "--open-path=/metrics"}),
        ("gateway.enabled=true,server.options.vllm-metrics=true", {"--vllm-metrics"}),
        ("apiKeys.secretName=keys", set()),
    ],
)
def test_a_gateways_picker_finds_what_it_reads(settings: str, options: set[str]) -> None:
    args = container(read(rendered("--set", settings)))["args"]
    assert {word for word in args if word in {"--vllm-metrics", "--open-path=/metrics"}} == options
    assert len(args) == len(set(args))


def test_options_may_be_lists_and_flags() -> None:
    settings = "server.options.vllm-metrics=true,server.options.cors-origin={https://a.example,https://b.example}"
    args = container(read(rendered("--set", settings)))["args"]
    assert "--vllm-metrics" in args
    assert [word for word in args if word.startswith("--cors-origin")] == [
        "--cors-origin=https://a.example",
        "--cors-origin=https://b.example",
    ]
    assert "--vllm-metrics" not in container(read(rendered("--set", "server.options.vllm-metrics=false")))["args"]
    parse(args)


def test_with_tls_all_speak_it() -> None:
    manifests = read(rendered("--set", "tls.secretName=cert,monitoring.kind=PodMonitor"))
    server = container(manifests)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"]["scheme"] == "HTTPS"
    assert by_kind(manifests)["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["scheme"] == "https"
    assert "/etc/s2l/tls" in {mount["mountPath"] for mount in server["volumeMounts"]}
    assert {"--tls-cert=/etc/s2l/tls/tls.crt", "--tls-key=/etc/s2l/tls/tls.key"} <= set(server["args"])
    parse(server["args"])


def test_gpus_that_talk_to_each_other_have_shared_memory() -> None:
    settings = "accelerator.kind=gpu,accelerator.count=2,model.volume=claim,model.claimName=m,model.name=/models/m"
    manifests = read(rendered("--set", settings))
    assert "/dev/shm" in {mount["mountPath"] for mount in container(manifests)["volumeMounts"]}
    assert "--slices=gpu=2" in container(manifests)["args"]
    assert "nodeSelector" not in pod(manifests)


def test_command_lines_with_helm_are_taken() -> None:
    texts = [(REPOSITORY / "docs" / "deploy.md").read_text(), *(path.read_text() for path in EXAMPLES)]
    lines = [line for text in texts for line in re.findall(r"^(?:# )?helm (.*)$", text, re.MULTILINE)]
    lines = [line for line in lines if "oci://" not in line]  # charts of others
    assert len(lines) >= 2 * len(EXAMPLES)
    for line in lines:
        verb, *args = shlex.split(line)
        # What would be asked of a cluster is only rendered here.
        result = helm(
            "template", *(word for word in args if word != "--reuse-values" and verb in {"install", "upgrade"})
        )
        assert result.returncode == 0, line + "\n" + result.stderr


def _values(args: list[str]) -> dict[str, str]:
    pairs = [word.removeprefix("--").split("=", 1) for word in args if "=" in word]
    return {name.replace("-", "_"): value for name, value in pairs}
