"""The command line as a user runs it: in processes of its own."""

import functools
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from s2l_jax.core.errors import InvalidArgument
from serving.client import Client, SamplingParams
from serving.commands.serve import serve
from serving.config import ServeConfig
from serving.status import Unauthenticated
from tests.serving.harness import Sizes, eventually, run, threaded_world
from tests.serving.tenants.key_files import key_of, write_keys

S2L = (sys.executable, "-c", "from serving.cli import main; main()")
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}
LARGE = Sizes(model_len=2048, num_blocks=1024)


def _s2l(*args: str, stdin: str = "", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*S2L, *args], input=stdin, capture_output=True, text=True, timeout=timeout_s, env=ENVIRONMENT, check=False
    )


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[str]:
    """A web server with one page; yields its address."""
    (tmp_path / "page.html").write_text("<html><body><nav>menu</nav><main><p>Page text.</p></main></body></html>")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_help_lists_commands_without_importing_them() -> None:
    program = (
        "import sys, time; start = time.perf_counter(); from serving.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = [m for m in ('jax', 'grpc', 'numpy', 'rich', 'serving.commands.serve') if m in sys.modules]\n"
        "print(heavy, time.perf_counter() - start)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True).stdout
    *lines, last = out.splitlines()
    assert last.startswith("[] ")
    assert any(line.split() == ["serve", "Serve", "a", "model", "over", "gRPC", "and", "HTTP"] for line in lines)
    assert any(line.strip().startswith("ask ") and "question" in line for line in lines)


def test_version() -> None:
    assert _s2l("--version").stdout.strip() == f"s2l, version {version('s2l-jax')}"


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["serve", "--block-size", "3"], "power of two"),
        (["serve", "--max-sessions", "0"], "--max-sessions is 0"),
        (["serve", "--kv-blocks", "10", "--max-model-len", "1000"], "--kv-blocks 63"),
        (["serve", "--token-budget", "8"], "--max-batch"),
        (["serve", "--port", "99999"], "65535"),
        (["ask", "why?"], "--context"),
        (["ask", "why?", "--context", "/no/such/file"], "check the path"),
        (["nonsense"], "No such command"),
    ],
)
def test_mistakes_get_one_line_that_says_what_to_do(args: list[str], hint: str) -> None:
    done = _s2l(*args)
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    done = _s2l("ask", "why?", "--context", str(tmp_path / "a.txt"), "--target", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no server answers at 127.0.0.1:1: start one with `s2l serve`")


def test_defaults_of_the_command_are_those_of_the_configuration() -> None:
    defaults = ServeConfig()
    options = {option.name: option.default for option in serve.params}
    for name in (
        "model",
        "block_size",
        "token_budget",
        "max_batch",
        "max_sessions",
        "policy",
        "preemption",
        "send_ahead",
        "default_max_tokens",
        "step_timeout_s",
    ):
        assert options[name] == getattr(defaults, name)


def test_configuration_refuses_unknown_dtypes() -> None:
    with pytest.raises(InvalidArgument, match="--dtype"):
        ServeConfig(dtype="float8")


@pytest.mark.parametrize("host_kv_gib", [-1.0, float("nan"), float("inf")])
def test_configuration_refuses_impossible_host_pools(host_kv_gib: float) -> None:
    with pytest.raises(InvalidArgument, match="--host-kv-gib"):
        ServeConfig(host_kv_gib=host_kv_gib)


def test_configuration_refuses_unknown_preemption() -> None:
    with pytest.raises(InvalidArgument, match="auto, recompute, swap"):
        ServeConfig(preemption="maybe")


def test_ask_reads_files_pages_and_standard_input(tmp_path: Path, pages: str) -> None:
    (tmp_path / "a.txt").write_text("File text.")
    with threaded_world(LARGE) as one:
        done = _s2l(
            *("ask", "why?", "--stdin", "--json", "--max-tokens", "5", "--target", one.target),
            *("--context", str(tmp_path / "a.txt"), "--context", f"{pages}/page.html"),
            *("--context", f"{pages}/missing.html", "--context", f"{pages}/image.png"),
            stdin="first line\nsecond line\n",
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert set(answer["sources"]) == {str(tmp_path / "a.txt"), f"{pages}/page.html", "standard input"}
        assert set(answer["problems"]) == {f"{pages}/missing.html", f"{pages}/image.png"}
        assert answer["server"]["output_tokens"] == 5 and len(answer["answer"]) == 5
        documents = (f"## {tmp_path / 'a.txt'}\nFile text.\n\n", f"## {pages}/page.html\nPage text.\n\n")
        lengths = sum(map(len, documents)) + len("first line\nsecond line\n") + len("<|why?>")
        assert answer["server"]["prompt_tokens"] == lengths
        assert 0 < answer["ttft_final_s"] <= answer["ttft_open_s"]


def test_ask_prints_the_answer_and_both_times(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("File text. " * 10)
    with threaded_world(LARGE) as one:
        done = _s2l(
            *("ask", "why?", "--context", str(tmp_path / "a.txt")),
            *("--max-tokens", "5", "--target", one.target, "--limit-chars", "10"),
        )
        assert done.stdout.strip() == one.expected(f"<## {tmp_path / 'a.txt'}\nFile text.\n\n|why?>", 5)
        assert "cut to 10 of 110 characters" in done.stderr
        assert "s after the last source" in done.stderr and "s after the question" in done.stderr


def test_ask_without_any_readable_source_says_so(pages: str) -> None:
    with threaded_world(LARGE) as one:
        done = _s2l("ask", "why?", "--context", f"{pages}/missing.html", "--target", one.target)
        assert done.returncode == 2
        assert "none of the sources" in done.stderr and "404" in done.stderr
        run(lambda: eventually(one.is_empty))


def _check_that_keys_are_read_again(process: subprocess.Popen[str], target: str, keys: Path) -> None:
    with Client(target, timeout_s=60, api_key=key_of("new")) as client:
        with pytest.raises(Unauthenticated):
            client.model()
        write_keys(keys, {"acme": {}, "new": {}})
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while True:
            try:
                assert client.model().name
            except Unauthenticated:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return


def test_serve_announces_itself_and_drains_on_sigterm(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # Survives the test run, so that a second one does not compile.
    cache_dir = str(request.config.cache.mkdir("serving"))
    ready = tmp_path / "ready.json"
    small = ["--max-model-len", "256", "--kv-blocks", "64", "--token-budget", "16", "--max-batch", "4"]
    small += ["--host-kv-gib", "0", "--preemption", "recompute"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        small += ["--http-port", str(probe.getsockname()[1])]
    keys = write_keys(tmp_path / "keys.json", {"acme": {}})
    command = [*S2L, "serve", "--model", "tiny-random", "--port", "0", "--ready-file", str(ready), *small]
    process = subprocess.Popen(
        [*command, "--max-sessions", "4", "--cache-dir", cache_dir, "--drain-timeout-s", "20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | {"S2L_API_KEYS_FILE": str(keys)},
    )
    try:
        deadline = time.monotonic() + 240
        while not ready.exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        address = json.loads(ready.read_text())
        assert address["pid"] == process.pid
        url = f"http://{address['host']}:{address['http_port']}"
        with urllib.request.urlopen(f"{url}/ready", timeout=20) as response:
            assert json.load(response) == {"status": "ready"}
        params = SamplingParams(max_tokens=8, ignore_eos=True)
        target = f"{address['host']}:{address['port']}"
        with Client(target, timeout_s=60, api_key=key_of("acme")) as client:
            whole = client.generate("Hello world", params)
            _check_that_keys_are_read_again(process, target, keys)
            with client.session(params, content="Hello ") as session:
                next(session.events())
                process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                with pytest.raises(urllib.error.HTTPError, match="503"):
                    urllib.request.urlopen(f"{url}/ready", timeout=20)
                session.append("world", final=True)
                assert session.result().token_ids == whole.token_ids
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert "64 KV blocks of 16 and 0 on the host" in out
        assert f"Listening on grpc://127.0.0.1:{address['port']}" in out
        assert f"Listening on {url}/v1" in out
        assert "stopped, all sessions had ended" in out
    finally:
        process.kill()
        process.communicate()
