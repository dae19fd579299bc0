"""Runs experiments through the real command line, and finds their processes and what they leave behind.

Each test has its own runtime folder, which holds only the state files of its own runs. So a test never touches a
foreign run on the same machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from checkpoint_cases import tensors_of
from host_pace import judging_time
from safetensors.numpy import save_file

from testbed.emulation.host import in_user_mode_linux
from testbed.emulation.processes import ProcessId
from testbed.emulation.state_files import Record
from testbed.runlog.folder import read_lines, read_rows

if TYPE_CHECKING:
    from unprivileged import User

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "experiments" / "quickstart.yaml"
TINY = ("--set", "model.preset=tiny", "--set", "traces=[]")
# Runs that share the host with others, or whose blocks are too small to be paced, are not judged by their timing,
# and need not measure links and host first.
UNJUDGED = ("--share-host", "--accept-unfaithful", "--calibrate", "off")
BY_HAND = "hand"  # names of interfaces that tests make on the host begin with it
IN_GUEST = in_user_mode_linux()
PATIENCE_S = 240.0 if IN_GUEST else 110.0
SWITCH = os.environ.get("TESTBED_TEST_SWITCH", "linuxbridge")  # of runs whose test chooses none
TWO_PLACEMENTS = """
import os, time

from testbed.placement.blocks import Placement
from testbed.placement.patterns import expand_patterns


class TwoPlacements:
    name = "two-placements"

    def reset(self, seed):
        self.first, self.then = {first!r}, {then!r}

    def decide(self, observation, placement):
        if placement is None:
            return Placement(expand_patterns(observation, self.first))
        while not os.path.exists({gate!r}):
            time.sleep(0.02)
        return placement.with_moves(expand_patterns(observation, self.first | self.then).items())
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Its only line on standard error, which must be an error."""
        assert self.err.startswith("Error: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("Error: ").strip()

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON document that is all of its standard output."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.summary["path"])


@dataclass(frozen=True)
class Place:
    """The folders of a test: one for run folders, and one for state files and sockets."""

    base: Path

    @property
    def out(self) -> Path:
        """The folder for run folders; made by the first run, not before."""
        return self.base / "runs"

    @property
    def runtime(self) -> Path:
        """The folder for state files and sockets."""
        return self.base / "rt"

    @property
    def env(self) -> dict[str, str]:
        """The environment of its commands."""
        return os.environ | {"TESTBED_RUNTIME_DIR": str(self.runtime)}

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line as a user would start it."""
        return [sys.executable, "-m", "testbed", *map(str, arguments)]

    def testbed(
        self, *arguments: str | Path, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None,
        by: User | None = None, timeout: float = PATIENCE_S,
    ) -> Ended:  # fmt: skip
        """Run one command to its end, perhaps as another user with that user's environment."""
        command = [*prefix, *self.command(*arguments)]
        environment = self.env if env is None else env
        if by is not None:
            command = [*by.prefix, by.python, "-m", "testbed", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=ROOT if by is None else by.root, env=environment, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def replay(self, experiment: Path, *arguments: str | Path, **options: Any) -> Ended:
        """`testbed replay EXPERIMENT --json`."""
        return self.testbed("replay", experiment, "--out", self.out, "--json", *_on_switch(arguments), **options)

    def done(self, experiment: Path, *arguments: str | Path, **options: Any) -> Ended:
        """A replay that must finish with the logits of the reference; its timing is not judged."""
        ended = self.replay(experiment, "--verify", *UNJUDGED, *arguments, **options)
        assert ended.code == 0, ended.err
        assert (ended.summary["status"], ended.summary["verified"]) == ("done", "bitwise")
        return ended

    @contextmanager
    def started(self, experiment: Path, *arguments: str | Path) -> Iterator[Going]:
        """A replay in the background, ended at the latest at the end of the block."""
        before = set(self.out.iterdir()) if self.out.exists() else set()
        process = subprocess.Popen(
            self.command("replay", experiment, "--out", self.out, "--json", *_on_switch(arguments)),
            cwd=ROOT, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        going = Going(self, process, experiment.stem, before)
        try:
            yield going
        finally:
            process.kill()
            process.communicate()

    def records(self) -> list[Record]:
        """What the state files in the runtime folder say."""
        return [Record.from_json(path.read_text()) for path in self.runtime.glob("*.json")]

    def left_behind(self) -> list[str]:
        """State files, locks and socket folders that are still there."""
        return sorted(path.name for path in self.runtime.iterdir()) if self.runtime.exists() else []

    def run_folders(self) -> list[Path]:
        """The run folders made so far."""
        return sorted(self.out.iterdir()) if self.out.exists() else []


def _on_switch(arguments: Sequence[str | Path]) -> list[str | Path]:
    """The arguments of a replay with the switch of these tests; a switch that the test chooses comes last and wins."""
    elsewhere = SWITCH == "linuxbridge" or "local" in arguments
    return [*([] if elsewhere else ["--set", f"switch={SWITCH}"]), *arguments]


@dataclass
class Going:
    """A running replay."""

    place: Place
    process: subprocess.Popen[str]
    experiment: str
    before: set[Path]

    def folder(self) -> Path:
        """Its run folder, once it has one with a manifest."""

        def find() -> Path | None:
            new = [path for path in self.place.run_folders() if path not in self.before]
            mine = [path for path in new if f"-{self.experiment}-" in path.name]
            return next((path for path in mine if (path / "manifest.json").exists()), None)

        return self.wait(find, "a run folder")

    def record(self) -> Record:
        """Its state, once its inner process is known."""

        def find() -> Record | None:
            run = str(self.folder())
            return next((r for r in self.place.records() if r.run_folder == run and r.init is not None), None)

        return self.wait(find, "an inner process")

    def until_token(self, number: int) -> Path:
        """Wait until it has generated so many tokens; returns its run folder."""
        folder = self.folder()
        tokens = folder / "tokens.jsonl"
        self.wait(lambda: len(list(read_lines(tokens))) >= number or None, f"{number} tokens")
        return folder

    def wait(self, look: Callable[[], Any], what: str) -> Any:
        """The result of `look` as soon as it is true; fails if the run ends first."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = look()
            if found is not None:
                return found
            if self.process.poll() is not None:
                raise AssertionError(f"the run ended without {what}: {self.process.communicate()}")
            time.sleep(0.05)
        raise AssertionError(f"no {what} within {PATIENCE_S:.0f} s")

    def end(self) -> Ended:
        """Wait for its end."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return Ended(self.process.returncode, out, err)

    def members(self) -> set[ProcessId]:
        """All present processes of the run, without the process that the user started.

        They are those of the inner process's PID namespace if it has its own, else those of its session.
        """
        init = self.record().init
        assert init is not None
        capsule = _namespace(init.pid, "pid")
        plain = capsule == _namespace(os.getpid(), "pid")

        def belongs(pid: int) -> bool:
            return os.getsid(pid) == os.getsid(init.pid) if plain else _namespace(pid, "pid") == capsule

        return set(processes(belongs))


def processes(belongs: Callable[[int], bool]) -> Iterator[ProcessId]:
    """All processes on this host for which the predicate holds; processes that end meanwhile are left out."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if belongs(int(entry)):
                    yield ProcessId.of(int(entry))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue


def mentioning(word: str) -> list[str]:
    """The command lines of other processes that contain `word`, such as a run's folder."""

    lines: dict[int, str] = {}

    def belongs(pid: int) -> bool:
        lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        return pid != os.getpid() and word in lines[pid]

    return [lines[found.pid] for found in processes(belongs)]


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def alive_after(members: set[ProcessId], seconds: float) -> set[ProcessId]:
    """The processes that still run after so many seconds; returns as soon as none does."""
    deadline = time.monotonic() + seconds
    while (left := {member for member in members if member.alive()}) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def assert_they_end(members: set[ProcessId], within_s: float) -> None:
    """Check that all processes of a run end, long before they would by themselves, and judge how soon."""
    begun = time.monotonic()
    assert members and alive_after(members, within_s + 20.0) == set()
    with judging_time():
        assert time.monotonic() - begun < within_s


def control_groups(run_id: str) -> list[Path]:
    """Control groups of a run, in any hierarchy."""
    walk = os.walk("/sys/fs/cgroup")  # passes over the groups of others that end meanwhile
    roots = [(Path(folder), names) for folder, names, _ in walk if Path(folder).name == "headroom"]
    return [root / name for root, names in roots for name in names if name.startswith(run_id)]


def interfaces() -> set[str]:
    """The names of this host's network interfaces, without those that another test makes by hand."""
    return {name for name in os.listdir("/sys/class/net") if not name.startswith(BY_HAND)}


def has_netem() -> bool:
    """Whether this kernel has netem."""
    tried = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms"
    return subprocess.run(["unshare", "--net", "sh", "-c", tried], capture_output=True, check=False).returncode == 0


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """A table of a run."""
    return read_rows(folder, table)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """A run's events of one kind."""
    return [row for row in read_lines(folder / "events.jsonl") if row["kind"] == kind]


def write_experiment(folder: Path, name: str = "own", **changes: Any) -> Path:
    """An experiment file with the tiny preset on four devices, and with these keys changed.

    Without a placement, blocks are placed round-robin, because the search of `static` takes long in a guest.
    """
    mapping: dict[str, Any] = {
        "model": {"preset": "tiny", "seed": 7},
        "prompt": "Where do the heads go?",
        "tokens": 12,
        "interval": 4,
        "topology": topology(),
        "compute": "native",
        "policy": "static" if "placement" in changes else "round-robin",
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(mapping | changes, sort_keys=False))
    return path


def two_placements(folder: Path, first: Mapping[str, str], then: Mapping[str, str], gate: str | Path = "/") -> str:
    """A policy for `--policy` that places by patterns and changes some of them at the first boundary.

    There it waits until the file `gate` is there, so that the run does not end before the test has done its part.
    """
    path = folder / "policy.py"
    path.write_text(TWO_PLACEMENTS.format(first=dict(first), then=dict(then), gate=str(gate)))
    return f"{path}:TwoPlacements"


def topology(**devices: Mapping[str, Any]) -> dict[str, Any]:
    """Four equal devices a, b, c and d; keyword arguments change keys of one of them."""
    plain = {
        "streaming": "2 GB/s", "compute": "10 GFLOP/s", "memory": "64 MiB", "storage": "2 GB/s",
        "link": {"rate": "200 Mbit/s", "delay": "0.2 ms"},
    }  # fmt: skip
    return {
        "shape": "star",
        "source": "a",
        "devices": {name: plain | dict(devices.get(name, {})) for name in "abcd"},
    }


def save_checkpoint(folder: Path, *, layers: int, width: int, heads: int, positions: int, vocab: int) -> None:
    """A small random GPT-2 as transformers would save it into `folder`, without the seconds in which it is imported."""
    config = {
        "model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": positions,
        "vocab_size": vocab,
    }  # fmt: skip
    draw = np.random.default_rng(3)
    tensors = {
        name: draw.normal(scale=0.2, size=dims).astype(np.float32)
        if len(dims) > 1
        else np.full(dims, float(name.endswith("weight")), np.float32)
        for name, (_, dims) in tensors_of(config).items()
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@contextmanager
def short_place() -> Iterator[Place]:
    """A place whose paths are short enough for sockets (pytest's own folders are not)."""
    base = Path(tempfile.mkdtemp(prefix="hr-"))
    try:
        yield Place(base)
    finally:
        if (left := Place(base)).left_behind():
            subprocess.run(left.command("clean"), cwd=ROOT, env=left.env, capture_output=True, check=False)
        shutil.rmtree(base, ignore_errors=True)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C for the process the user started."""
    process.send_signal(signal.SIGINT)
