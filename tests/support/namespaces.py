"""Network namespaces of a test's own, and interfaces in them; all go with the processes that hold them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

HOLD = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep 300"]  # sleep keeps unshare's pid


@contextmanager
def namespaces(count: int) -> Iterator[list[int]]:
    """The pids of so many processes, each with a network namespace."""
    holders = [subprocess.Popen(HOLD, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for holder in holders:
            assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
        yield [holder.pid for holder in holders]
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def ip(pid: int, *commands: str) -> None:
    """Carry out commands of `ip` in a namespace."""
    batch = ["nsenter", "-t", str(pid), "-n", "ip", "-batch", "-"]
    subprocess.run(batch, input="\n".join(commands), text=True, check=True)


@contextmanager
def joined(prefix: str) -> Iterator[tuple[int, int]]:
    """(near, far): pids in two namespaces joined by a veth pair `v0` with the addresses PREFIX.1 and PREFIX.2."""
    with namespaces(2) as (near, far):
        ip(near, f"link add v0 type veth peer name v0 netns {far}")
        for number, pid in enumerate((near, far), 1):
            ip(pid, f"addr add {prefix}.{number}/24 dev v0", "link set v0 up")
        yield near, far
