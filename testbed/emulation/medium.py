"""The medium of a wifi: all frames of all stations, in both directions, pass one queue.

The kernel's IFB device is made for that. A filter at each port of the access point's bridge sends every frame that
comes in or goes out to the IFB. It waits in the IFB's queue, and then goes on where it was. So a frame from station to
station waits there twice. The queue itself is shaped like that of any link (docs/adr/0030-one-queue-for-a-wifi.md).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence

from testbed.errors import EnvironmentLacks

_FILTER = "protocol all prio 1 u32 match u32 0 0 action mirred egress redirect dev"

MEDIUM_RATES = "one TBF on an IFB that all stations share, in both directions"


def share_medium(interface: str, ports: Iterable[str], netns_pid: int | None = None) -> None:
    """Make an IFB of this name, and send all frames of some ports through it.

    `netns_pid` is a process in the network namespace of the ports; None means the caller's own. Raises
    EnvironmentLacks where the kernel lacks one of the parts.
    """
    inside = () if netns_pid is None else ("nsenter", "--net", "--target", str(netns_pid))
    _carry_out((*inside, "ip"), [f"link add {interface} type ifb", f"link set {interface} up"])
    lines = []
    for port in ports:
        lines.append(f"qdisc add dev {port} clsact")
        lines += [f"filter add dev {port} {side} {_FILTER} {interface}" for side in ("ingress", "egress")]
    _carry_out((*inside, "tc"), lines)


def _carry_out(program: Sequence[str], lines: Iterable[str]) -> None:
    done = subprocess.run([*program, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentLacks(
            f"shape: wifi needs the kernel's ifb, sch_ingress, cls_u32 and act_mirred, and {program[-1]} says: "
            f"{' '.join(done.stderr.split())}; run it in the sandbox (`testbed sandbox -- testbed replay …`), or with "
            "--backend sim"
        )
