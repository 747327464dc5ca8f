"""Links between network namespaces, which are cut by taking an interface down."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_NET = "10.213"


class VethLink:
    """The way into a namespace.

    Attributes:
      namespace: its name.
      host: address of whoever is in there.
      address: `HOST:PORT`, once the port is known.
    """

    def __init__(self, number: int) -> None:
        self.namespace = f"s2l-{os.getpid() % 10000}-{number}"
        self.host = f"{_NET}.{number}.2"
        self.address = ""
        self._outside = f"s2l{os.getpid() % 10000}o{number}"
        self._inside = f"s2l{os.getpid() % 10000}i{number}"
        self._here = f"{_NET}.{number}.1"

    def make(self) -> None:
        """Makes namespace and interfaces."""
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self._outside, "type", "veth", "peer", "name", self._inside, "netns", self.namespace)
        _ip("addr", "add", f"{self._here}/30", "dev", self._outside)
        _ip("link", "set", self._outside, "up")
        _ip("-n", self.namespace, "addr", "add", f"{self.host}/30", "dev", self._inside)
        _ip("-n", self.namespace, "link", "set", self._inside, "up")
        _ip("-n", self.namespace, "link", "set", "lo", "up")

    def cut(self) -> None:
        """Packets vanish from now on, whichever side they come from; no connection hears of it."""
        _ip("-n", self.namespace, "link", "set", self._inside, "down")

    def heal(self) -> None:
        _ip("-n", self.namespace, "link", "set", self._inside, "up")

    def close(self) -> None:
        """Takes everything away; the interfaces go with the namespace."""
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)


def why_not() -> str | None:
    """Why namespaces cannot be made here; None if they can."""
    if shutil.which("ip") is None:
        return "there is no command `ip` (package iproute2)"
    link = VethLink(254)
    try:
        link.make()
    except subprocess.CalledProcessError as error:
        return f"`{' '.join(error.cmd)}` failed: {error.stderr.decode().strip()}"
    finally:
        link.close()
    return None


@contextmanager
def veth_links(count: int) -> Iterator[list[VethLink]]:
    """Namespaces with a link each."""
    links = [VethLink(number) for number in range(1, count + 1)]
    try:
        for link in links:
            link.make()
        yield links
    finally:
        for link in links:
            link.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)
