"""The screen of `testbed watch`: keys, the clock, and where in the run it is."""

from __future__ import annotations

import time
from dataclasses import replace

from rich.console import Group
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.widgets import Footer, Static

from testbed.cli.watch_frame import frame
from testbed.runlog.following import Follower
from testbed.running.going_on import is_up
from testbed.running.picture import RUNNING, Text, picture

LOOK_S = 0.4  # between two looks at a run that is going on
FOOTER = 1  # line
QUIET_S = 30.0  # without anything new, a run without a summary may be dead


class Watch(App[None]):
    """Shows a run as it goes on, or one that has ended token by token."""

    ENABLE_COMMAND_PALETTE = False
    CSS = "Static { height: 1fr; }"
    BINDINGS = [
        Binding("q", "quit", "Quit"),
        Binding("space", "pause", "Pause / go on"),
        Binding("left", "step(-1)", "Token back"),
        Binding("right", "step(1)", "Token on"),
        Binding("home", "first", "First"),
        Binding("end", "last", "Last"),
    ]

    def __init__(self, run: Follower, per_second: float) -> None:
        super().__init__()
        self.run_shown = run
        self.per_second = per_second
        # After how many tokens the run is shown; None: as far as it has come.
        self.at: int | None = None if run.summary is None else 0
        self.paused = False
        self._words: Text | None = None  # once the manifest says which model it is
        self._news_at = time.monotonic()
        self._up = False  # its controller has been seen
        self._remark = ""

    def compose(self) -> ComposeResult:
        """The picture, and the keys below it."""
        yield Static(id="frame", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Start both clocks."""
        self.animation_level = "none"
        self.set_interval(LOOK_S, self.look)
        self.set_interval(1 / self.per_second, self.go_on)
        self.show()

    def on_resize(self) -> None:
        """Draw for the new size, which the app has once it has taken this event itself."""
        self.call_next(self.show)

    def look(self) -> None:
        """Read what is new, unless the run has ended."""
        if self.run_shown.summary is not None and self.run_shown.trouble is None:
            return
        up = is_up(self.run_shown.folder)  # asked first: what a run writes last is read after it
        news = self.run_shown.look()
        if news:
            self._news_at = time.monotonic()
        remark = _remark(self.run_shown, time.monotonic() - self._news_at, self._up and not up)
        self._up |= up
        if news or remark != self._remark:
            self._remark = remark
            self.show()

    def go_on(self) -> None:
        """Show the next token of a run that is replayed."""
        if self.at is not None and not self.paused:
            self.at += 1
            if self.at >= len(self.run_shown.rows["tokens"]):
                self.at = None
            self.show()

    def show(self) -> None:
        """Draw the present picture."""
        if self._words is None and "experiment" in self.run_shown.manifest:
            self._words = Text(self.run_shown.manifest)
        width, height = self.size.width, self.size.height - FOOTER
        shown = picture(self.run_shown, self.at, self._words)
        if self._remark and shown.status == RUNNING:
            shown = replace(shown, status=f"{RUNNING}?")  # the remark says why that is in doubt
        lines = frame(shown, width, height - 1)
        self.query_one("#frame", Static).update(Group(*lines, self._remark))

    def action_pause(self) -> None:
        """Stop at this token, or go on."""
        if self.at is None and not self.paused:
            self.at = len(self.run_shown.rows["tokens"])
        self.paused = not self.paused

    def action_step(self, tokens: int) -> None:
        """Go some tokens back or on, and stop there."""
        every = len(self.run_shown.rows["tokens"])
        self.at = max(0, min(every, (every if self.at is None else self.at) + tokens))
        self.paused = True
        self.show()

    def action_first(self) -> None:
        """Replay from the beginning."""
        self.at, self.paused = 0, False

    def action_last(self) -> None:
        """Show the run as far as it has come."""
        self.at, self.paused = None, False
        self.show()


def _remark(run: Follower, silent_s: float, gone: bool) -> str:
    """What is to be said of the folder itself, and of a run whose controller is gone."""
    if run.trouble is not None:
        return f"{run.trouble}; what was read of it stays here."
    if run.summary is None and gone:
        return "The run has ended without a summary: its controller is gone."
    if run.summary is None and silent_s > QUIET_S:
        return f"Nothing new for {silent_s:.0f} s: the run may have been killed."
    return ""
