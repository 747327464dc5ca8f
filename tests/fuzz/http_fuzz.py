"""Fuzzes HTTP: what the OpenAPI schema allows and forbids, by schemathesis, and bytes that are hardly HTTP at all."""

import random
import socket
from collections import Counter

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode

_CALL_TIMEOUT_S = 20.0
_HEADS = (
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    b'{"prompt": "a"}',
    b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x85abcdefghi",
)
_FIELDS = (b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n")
_SPICE = (b"\r\n", b"\x00", b"\xff" * 9, b": ", b"%00", b"A" * 9000, *_FIELDS)


class HttpFuzzer:
    """Sends what schemathesis makes of the schema, and looks at the answers.

    Attributes:
      statuses: how often each one came.
    """

    def __init__(self, url: str) -> None:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations = [one.ok() for one in schema.get_all_operations()]
        assert operations
        modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        self._cases = st.one_of([one.as_strategy(generation_mode=mode) for one in operations for mode in modes])
        self.operations = len(operations)
        self.statuses: Counter[str] = Counter()

    def run(self, examples: int, number: int) -> None:
        """Makes some requests; a failure is cut down to the least that still fails, and raised."""

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(self._cases)
        def one(case: schemathesis.Case) -> None:
            response = case.call(timeout=_CALL_TIMEOUT_S)
            self.statuses[str(response.status_code)] += 1
            case.validate_response(response, checks=[not_a_server_error])
            assert "Traceback" not in response.text

        one()


class ByteFuzzer:
    """Sends requests with bytes knocked out of place.

    Attributes:
      statuses: how often each status came; "-" is a connection that was closed without one.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.statuses: Counter[str] = Counter()

    def run(self, examples: int, number: int) -> None:
        """Makes some connections."""
        chance = random.Random(number)
        for _ in range(examples):
            data = _spoiled(chance)
            with socket.create_connection(("127.0.0.1", self._port), timeout=_CALL_TIMEOUT_S) as connection:
                try:
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    answer = connection.recv(4096)
                except (ConnectionResetError, BrokenPipeError):
                    answer = b""
            status = answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else "-"
            self.statuses[status] += 1
            assert not status.startswith("5"), (data, answer)


def _spoiled(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(_HEADS))
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(3):
            case 0:
                data[place:place] = chance.choice(_SPICE)
            case 1:
                del data[place : place + chance.randrange(20)]
            case _:
                data[place : place + 1] = chance.randbytes(chance.randrange(4))
    return bytes(data)
