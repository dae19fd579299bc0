"""The signals that ask a process to end: as a KeyboardInterrupt, or kept until what must not be cut off is done."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_S, PATIENCE_S = 0.01, 10.0

Collected = tuple[list[int], socket.socket]
"""The signals so far, and a socket that can be read when another has come."""


def interrupt_at_signals() -> None:
    """From now on each of them raises KeyboardInterrupt, but for those that are ignored, as `nohup` asks for."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def end_at_signals() -> None:
    """From now on each of them ends this process at once, but for those that are ignored."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def collected_signals() -> Iterator[Collected]:
    """Gather them in a list, waking whoever selects on the socket; the old handlers come back. For the main thread."""
    received: list[int] = []
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    previous_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    heard = [number for number in ENDING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, lambda signum, _: received.append(signum)) for number in heard}
    try:
        yield received, reader
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(previous_wakeup)
        reader.close()
        writer.close()


@contextlib.contextmanager
def held_signals() -> Iterator[Collected | None]:
    """For a block that must come to its end: KeyboardInterrupt is raised after it if a signal came meanwhile.

    Threads other than the main one get no signals, and hold none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    with collected_signals() as collected:
        yield collected
    if collected[0]:
        raise KeyboardInterrupt


_put_off: list[float] = []  # when a signal is obeyed at the latest


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but have the signal come again a little later where it could be hidden.

    While a module is imported, the interpreter may drop it (in the callback of a module's lock) or turn it into another
    error (in a class), and so may pydantic while it builds a model.
    """
    if _hides(frame):
        if not _put_off:
            _put_off.append(time.monotonic() + PATIENCE_S)
        if time.monotonic() < _put_off[0]:
            signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
            signal.setitimer(signal.ITIMER_REAL, RETRY_S)
            return
    _put_off.clear()
    raise KeyboardInterrupt


def _hides(frame: FrameType | None) -> bool:
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib") or "/pydantic/_internal/" in file:
            return True
        frame = frame.f_back
    return False
