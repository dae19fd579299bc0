"""How much memory a process has to itself, as the kernel tells it in /proc; see proc(5)."""

from __future__ import annotations

from pathlib import Path


def private_bytes(pid: int) -> int:
    """Private pages of a process, clean and dirty, from /proc/<pid>/smaps_rollup; 0 where that cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in lines)
    return 1024 * sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))


def process_rss_bytes(pid: int) -> int | None:
    """Anonymous resident memory of a process (`RssAnon` of /proc/<pid>/status); None when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
