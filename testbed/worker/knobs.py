"""Kernel knobs that a device wants set, and what is said where they cannot be.

A container may have /proc/sys read-only, and a user namespace may not own a knob: a run goes on without and notes it.
"""

from __future__ import annotations

from pathlib import Path

# Token messages are small and bursty: a window that closes after an idle second would be measured as delay, and
# what one connection has learnt of a link would be held against the next.
TCP_KNOBS = {
    "/proc/sys/net/ipv4/tcp_slow_start_after_idle": "0",
    "/proc/sys/net/ipv4/tcp_no_metrics_save": "1",
}


def set_knob(path: str, value: str) -> str | None:
    """Write a knob; None if it has the value then, else what it is and why: `PATH stays 1 (Read-only file system)`."""
    knob = Path(path)
    try:
        knob.write_text(value)
    except OSError as error:
        try:
            found = knob.read_text().strip()
        except OSError:
            found = "unknown"
        return None if found == value else f"{path} stays {found} ({error.strerror})"
    return None


def keep_idle_connections_fast() -> list[str]:
    """Set the knobs of the calling thread's network namespace; returns what was refused."""
    return [refused for path, value in TCP_KNOBS.items() if (refused := set_knob(path, value)) is not None]
