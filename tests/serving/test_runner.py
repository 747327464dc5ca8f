"""How a server's event loop runs."""

import subprocess
import sys

PROGRAM = """
import asyncio, gc, sys
from serving.runner import run

before_s = sys.getswitchinterval()

async def main():
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
    assert gc.get_freeze_count() > 1000 and gc.isenabled()
    assert sys.getswitchinterval() < before_s
    print("ran")

run(main())
assert sys.getswitchinterval() == before_s and gc.get_freeze_count() == 0
"""


def test_on_uvloop_and_without_full_collections() -> None:
    # In a process of its own, for it changes its priority.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("ran\n", "")
