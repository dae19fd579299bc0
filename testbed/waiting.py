"""Waits for a descriptor for less than a millisecond, also in a process that has many files open."""

from __future__ import annotations

import select

_SELECTABLE = 1024  # FD_SETSIZE in select(2)


def await_readable(descriptor: int, timeout_s: float | None) -> bool:
    """Wait until something can be read, at most for the timeout (None: ever); returns whether it can.

    Python's poll(2) and epoll(7) wait for whole milliseconds, and select(2) takes only low descriptors. Where the
    descriptor is higher, the wait is up to one millisecond too short: whoever needs the time waits again.
    """
    if descriptor < _SELECTABLE:
        return bool(select.select((descriptor,), (), (), timeout_s)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else int(timeout_s * 1000)))
