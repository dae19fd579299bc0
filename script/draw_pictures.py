"""Makes the pictures of `script/pictures`: it runs verbs as a user does, and looks at the report in Chromium."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.text import Text

from testbed.cli.watch_app import Watch
from testbed.runlog.following import Follower

COLUMNS, WIDE, WIDEST = 100, 124, 140  # of a terminal, and of those in which tables of runs and of sweeps fit
WATCHED_AT = 66  # token: the link has fallen, board b has lost memory, and blocks have moved
WIDTH = 1100  # pixels of a picture at most
FIGURES = ("token_latency", "latency_ecdf", "predicted_vs_measured", "memory", "placement_map", "link_rates")
SEEN = ("estimates", "link_delays")  # figures of a run that sees only what it has measured
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # that rich and Textual would fetch from elsewhere
LOST = ("recoveries", "downtime")  # figures of runs that lose devices
COMPARED = ["--backend", "sim", "--policy", "greedy", "--policy", "paper", "--policy", "headroom", "--seeds", "20"]
PROMPT, TYPED = b"mininet> ", ("net", "pingall", "a ping -c 2 b", "exit")  # in Mininet's command line
NO_ORIGIN = "not an origin"  # the initiator of requests that no page makes


def testbed(*arguments: str | Path) -> None:
    """Run a verb; what it prints is of no interest."""
    subprocess.run([sys.executable, "-m", "testbed", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def make_runs(folder: Path) -> None:
    """The runs of the demonstration, one that sees only what it has measured, and two simulated ones with losses."""
    policies = ("--policy", "static", "--policy", "paper-search")
    testbed("compare", "quickstart", "--backend", "mininet", "--verify", *policies, "--out", folder / "demo")
    measured = ("--set", "observation=measured", "--accept-unfaithful")
    testbed("replay", "quickstart", "--backend", "mininet", *measured, "--out", folder / "measured")
    losing = ["gpt2-star4", "--backend", "sim", "--policy", "round-robin", "--chaos", "1"]
    losing += ["--set", "topology.devices.a.memory=400 MiB"]  # room for what two others lose
    for method in ("recompute", "replicate"):
        testbed("replay", *losing, "--set", f"recovery.method={method}", "--out", folder / "lost")


def compress(picture: Path, colours: int | None = None) -> None:
    """Make a picture small: as wide as a page at most, perhaps of few colours."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    shown = image if colours is None else image.quantize(colours, dither=Image.Dither.NONE)
    shown.save(picture, optimize=True)


def draw_figures(runs: Path, out: Path, names: tuple[str, ...], work: Path) -> None:
    """The figures of these names, as `figure-NAME.png`; of those of each run, the last one's."""
    for name in names:
        testbed("plot", runs, "--figure", name, "--out", work / name)
        drawn = sorted((work / name).iterdir())
        picture = next((path for path in drawn if "paper-search" in path.name), drawn[-1])
        compress(picture.rename(out / f"figure-{name.replace('_', '-')}.png"))


def shown_in_terminal(command: list[str], columns: int, folder: Path, typed: Sequence[str] = ()) -> str:
    """What a command writes to a terminal of so many columns, where it is given in a folder.

    A line of `typed` is entered whenever it prompts. Remarks and bars on standard error are left out, unless something
    is typed: Mininet writes there.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "testbed", *command[1:]], stdin=theirs, stdout=theirs,
        stderr=theirs if typed else subprocess.DEVNULL, env=environment, cwd=folder,
    ):  # fmt: skip
        os.close(theirs)
        written, lines = b"", list(typed)
        try:
            while more := os.read(ours, 65536):
                written += more
                if lines and written.endswith(PROMPT):
                    os.write(ours, f"{lines.pop(0)}\n".encode())
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    return re.sub(r"\r+\n", "\n", written.decode()).replace(str(Path.cwd()), "…")


def draw_terminal(
    out: Path, command: list[str], columns: int = COLUMNS, folder: Path = Path(), typed: Sequence[str] = ()
) -> None:
    """A command and what it writes, as an SVG picture."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(shown_in_terminal(command, columns, folder, typed)))
    title = textwrap.shorten(shlex.join(command), columns * 2 // 3, placeholder=" …")
    out.write_text(FONT.sub("", console.export_svg(title=title)))


async def draw_watch(out: Path, run: Path) -> None:
    """What `testbed watch` shows in the middle of a run."""
    follower = Follower(run)
    while follower.look():
        pass
    app = Watch(follower, 1.0)
    async with app.run_test(size=(COLUMNS, 30)) as pilot:
        app.at, app.paused = WATCHED_AT, True
        app.show()
        await pilot.pause()
        out.write_text(FONT.sub("", app.export_screenshot(title=f"testbed watch {run.name}")))


def browse(page: Path, theme: str, work: Path, *options: str) -> tuple[str, list[str]]:
    """Open the report in a browser without a network; returns what it prints, and what it did that it should not."""
    log = work / "net.json"
    command = [
        "unshare", "--net", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
        f"--user-data-dir={work / 'profile'}", f"--log-net-log={log}", "--enable-logging=stderr",
        "--virtual-time-budget=20000", *options, f"file://{page}?theme={theme}",
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    wrong = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "source: chrome://" not in line]
    return done.stdout, wrong + [f"it asked for {url}" for url in sorted(_asked(json.loads(log.read_text())))]


def _asked(log: dict[str, Any]) -> set[str]:
    """The addresses that the page asked for; what Chromium asks for by itself has no origin."""
    told = [event.get("params", {}) for event in log["events"]]
    asked = {str(one.get("url", "")) for one in told if one.get("initiator", NO_ORIGIN) != NO_ORIGIN}
    return {url for url in asked if not url.startswith(("file:", "data:", "blob:"))}


def check_the_check(work: Path) -> None:
    """Open a page that does all that a report must not; raises SystemExit if that goes unseen."""
    page = work / "wrong.html"
    page.write_text('<img src="http://example.invalid/x.png"><script>noSuchFunction()</script>')
    _, wrong = browse(page, "light", work, "--dump-dom")
    if not ("noSuchFunction" in str(wrong) and "it asked for http://example.invalid/x.png" in wrong):
        raise SystemExit(f"Error: what a wrong page does is not seen, only {wrong}")


def draw_report(runs: Path, out: Path, work: Path) -> None:
    """Pictures of the report in light and dark; raises SystemExit for what is wrong with it."""
    page = work / "report.html"
    testbed("report", runs, "--out", page)
    for theme in ("light", "dark"):
        shot = out / f"report-{theme}.png"
        _, wrong = browse(page, theme, work, "--window-size=1100,1500", f"--screenshot={shot}")
        document, more = browse(page, theme, work, "--window-size=1100,1500", "--dump-dom")
        figures = re.findall(r'<div class="chart" id="chart-\d+"[^>]*>(.*?)</div>\s*<figcaption', document, re.DOTALL)
        drawn = [bool(re.search(r"<(svg|canvas)[ >]", figure)) for figure in figures]
        wrong += more + [f"figure {number} is not drawn" for number, is_there in enumerate(drawn) if not is_there]
        if wrong or not drawn or f'data-theme="{theme}"' not in document:
            raise SystemExit(f"Error: the report ({theme}): {'; '.join(wrong) or 'has no figures'}")
        print(f"report, {theme}: {len(drawn)} figures drawn, nothing on the console, nothing asked for")
        compress(shot, 128)


def main() -> None:
    """Make all pictures."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img").absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="headroom-pictures-") as folder:
        work = Path(folder)
        runs = Path(sys.argv[2]).absolute() if len(sys.argv) > 2 else work / "runs"
        if not runs.exists():
            make_runs(runs)
        demo = runs / "demo"
        check_the_check(work)
        draw_report(demo, out, work)
        draw_figures(demo, out, FIGURES, work)
        draw_figures(runs / "measured", out, SEEN, work)
        draw_figures(runs / "lost", out, LOST, work)
        moved = next(path for path in demo.iterdir() if path.name.endswith("-paper-search"))
        asyncio.run(draw_watch(out / "watch.svg", moved))
        killed = next(path for path in demo.iterdir() if path.name.endswith("-static"))
        for name, columns, command in (
            ("explain", COLUMNS, ["explain", f"demo/{moved.name}"]),
            ("runs", WIDE, ["runs", "list", "demo"]),
            ("runs-show", COLUMNS, ["runs", "show", f"demo/{moved.name}"]),
            ("runs-diff", COLUMNS, ["runs", "diff", f"demo/{killed.name}", f"demo/{moved.name}"]),
            ("doctor", COLUMNS, ["doctor"]),
            ("iperf", COLUMNS, ["iperf", "star4"]),
            ("plan", COLUMNS, ["plan", "llama-3-8b", "4 x raspberry-pi-5 8GB", "--target", "5 tok/s"]),
            ("compare", WIDE, ["compare", "small-scale", *COMPARED]),
            ("sweep", WIDEST, ["sweep", "sweep-delay"]),
            ("topologies", COLUMNS, ["topologies", "list"]),
            ("traces", WIDE, ["traces", "list"]),
            ("models", COLUMNS, ["models", "list"]),
        ):
            draw_terminal(out / f"{name}.svg", ["testbed", *command], columns, runs)
        draw_terminal(out / "shell.svg", ["testbed", "shell", "star4"], COLUMNS, runs, TYPED)
        testbed("topologies", "graph", "two-tier6", "--out", out / "topology.png")
        compress(out / "topology.png")
    print("\n".join(f"{path.stat().st_size:8} {path}" for path in sorted(out.iterdir())))


if __name__ == "__main__":
    main()
