"""Settings of the kernel under /proc that a device wants, and what to say where they cannot be written.

A container may mount /proc/sys read-only, and a user namespace may not own a setting. A run goes on without and notes
it.
"""

from __future__ import annotations

from pathlib import Path

# Messages of tokens are small and come in bursts. A window that shrinks after an idle second would show up as delay,
# and so would what a new connection takes over from an old one. Buffers (least, first, most) have room for the rows of
# a prefill chunk, which leave and arrive while the workers at both ends compute.
TCP_SETTINGS = {
    "/proc/sys/net/ipv4/tcp_slow_start_after_idle": "0",
    "/proc/sys/net/ipv4/tcp_no_metrics_save": "1",
    "/proc/sys/net/ipv4/tcp_rmem": "4096\t4194304\t16777216",
    "/proc/sys/net/ipv4/tcp_wmem": "4096\t2097152\t16777216",
}


def write_setting(path: str, value: str) -> str | None:
    """Write a setting. None if it then has the value, else its value and the reason.

    For example `PATH stays 1 (Read-only file system)`.
    """
    file = Path(path)
    try:
        file.write_text(value)
    except OSError as error:
        try:
            found = file.read_text().strip()
        except OSError:
            found = "unknown"
        return None if found == value else f"{path} stays {found} ({error.strerror})"
    return None


def keep_idle_connections_fast() -> list[str]:
    """Write TCP's settings in the calling thread's network namespace; returns those that were refused."""
    return [refused for path, value in TCP_SETTINGS.items() if (refused := write_setting(path, value)) is not None]
