"""Makes the pictures of `script/pictures`: it runs verbs as a user does, and looks at the report in Chromium."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.text import Text

from testbed.cli.watch_app import Watch
from testbed.runlog.following import Follower

COLUMNS = 100  # of a terminal
WATCHED_AT = 66  # token: the link has fallen, board b has lost memory, and blocks have moved
WIDTH, COLOURS = 1100, 96  # pixels and colours of a picture at most
FIGURES = ("token_latency", "latency_ecdf", "predicted_vs_measured", "memory", "placement_map", "link_rates")
SEEN = ("estimates", "link_delays")  # figures of a run that sees only what it has measured
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # that rich and Textual would fetch from elsewhere
ASKED = ("http:", "https:", "ws:", "wss:", "ftp:")


def testbed(*arguments: str | Path) -> None:
    """Run a verb; what it prints is of no interest."""
    subprocess.run([sys.executable, "-m", "testbed", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def make_runs(folder: Path) -> None:
    """The runs of the demonstration."""
    policies = ("--policy", "static", "--policy", "paper-search")
    testbed("compare", "quickstart", "--backend", "mininet", "--verify", *policies, "--out", folder)


def compress(picture: Path) -> None:
    """Make a picture small: as wide as a page at most, with few colours."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


def draw_figures(runs: Path, out: Path, names: tuple[str, ...], work: Path) -> None:
    """The figures of these names, as `figure-NAME.png`; of those of each run, the last one's."""
    for name in names:
        testbed("plot", runs, "--figure", name, "--out", work / name)
        drawn = sorted((work / name).iterdir())
        picture = next((path for path in drawn if "paper-search" in path.name), drawn[-1])
        compress(picture.rename(out / f"figure-{name.replace('_', '-')}.png"))


def shown_in_terminal(command: list[str]) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "testbed", *command[1:]], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ):
        os.close(theirs)
        written = b""
        try:
            while more := os.read(ours, 65536):
                written += more
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def draw_terminal(out: Path, command: list[str], told: str = "") -> None:
    """A command and what it writes, as an SVG picture; `told` stands for the command line where that is long."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(shown_in_terminal(command)), soft_wrap=True)
    out.write_text(FONT.sub("", console.export_svg(title=told or " ".join(command))))


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
    wrong = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, wrong + [f"it asked for {url}" for url in _asked(json.loads(log.read_text()))]


def _asked(log: dict[str, Any]) -> set[str]:
    """The addresses on other hosts that the browser asked for."""
    urls = {str(event.get("params", {}).get("url", "")) for event in log["events"]}
    return {url for url in urls if url.startswith(ASKED)}


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
        compress(shot)


def main() -> None:
    """Make all pictures."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img").absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="headroom-pictures-") as folder:
        work = Path(folder)
        runs = Path(sys.argv[2]).absolute() if len(sys.argv) > 2 else work / "runs"
        if not runs.exists():
            make_runs(runs)
        draw_report(runs, out, work)
        draw_figures(runs, out, FIGURES, work)
        seen = work / "seen"
        testbed("replay", "quickstart", "--backend", "sim", "--set", "observation=measured", "--out", seen)
        draw_figures(seen, out, SEEN, work)
        moved = next(path for path in runs.iterdir() if path.name.endswith("-paper-search"))
        asyncio.run(draw_watch(out / "watch.svg", moved))
        draw_terminal(out / "explain.svg", ["testbed", "explain", str(moved)], f"testbed explain {moved.name}")
        draw_terminal(out / "runs.svg", ["testbed", "runs", "list", str(runs)], "testbed runs list")
        draw_terminal(out / "doctor.svg", ["testbed", "doctor"])
        draw_terminal(out / "plan.svg", ["testbed", "plan", "llama-3-8b", "4 x raspberry-pi-5 8GB"])
        testbed("topologies", "graph", "two-tier6", "--out", out / "topology.png")
        compress(out / "topology.png")
    print("\n".join(f"{path.stat().st_size:8} {path}" for path in sorted(out.iterdir())))


if __name__ == "__main__":
    main()
