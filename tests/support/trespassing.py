"""Tries all sockets on which some processes listen as another user of the host; none may accept that user.

As a script run by that user, `trespassing.py ADDRESS...` (a socket's path, or HOST:PORT) prints the sockets that
accepted.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import zmq

LISTENING = re.compile(r"^(?:tcp|udp|u_str|u_dgr|u_seq)\s+\S+\s+\d+\s+\d+\s+(\S+).*pid=(\d+),", re.MULTILINE)


def listening(pids: Iterable[int]) -> set[str]:
    """The addresses on which one of these processes listens and that are reachable from outside its network."""
    here, found = os.readlink("/proc/self/ns/net"), set()
    wanted = set(pids)
    for network, pid in {os.readlink(f"/proc/{pid}/ns/net"): pid for pid in wanted}.items():
        enter = [] if network == here else ["nsenter", f"--net=/proc/{pid}/ns/net"]
        said = subprocess.run([*enter, "ss", "-lntuxpH"], capture_output=True, text=True, check=True).stdout
        for address, holder in LISTENING.findall(said):
            if int(holder) in wanted and (network == here or address.startswith("/")):
                found.add(address)
    return found - {"*"}


def let_in(addresses: Iterable[str]) -> list[str]:
    """The addresses that a user without rights could use."""
    from unprivileged import ROOT, without_rights

    user = without_rights()
    command = [*user.prefix, user.python, str(user.root / Path(__file__).relative_to(ROOT)), *addresses]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", env=user.env, timeout=60)
    return done.stdout.split()


def knock(address: str) -> bool:
    """Send garbage through three kinds of pyzmq socket and a plain one; returns whether anyone accepted it."""
    unix = address.startswith("/")
    with zmq.Context() as context:
        for kind in (zmq.PUSH, zmq.DEALER, zmq.REQ):
            sender = context.socket(kind)
            sender.setsockopt(zmq.LINGER, 50)
            sender.setsockopt(zmq.SNDTIMEO, 50)
            sender.connect(f"ipc://{address}" if unix else f"tcp://{address}")
            for frames in ([b"a"], [b"a", b"\xff" * 30], [b"", b"", b""]):
                try:
                    sender.send_multipart(frames)
                except zmq.ZMQError:
                    break
            sender.close()
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as plain:
        try:
            plain.connect(address if unix else (host.replace("0.0.0.0", "127.0.0.1"), int(port)))
            plain.sendall(bytes(200))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    print(*[address for address in sys.argv[1:] if knock(address)])
