"""A plan in which no placement can last to the last token says so: exactly, and in every verb that makes runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.cli import run
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import PAGE_BYTES
from testbed.placement.cost.memory import any_placement, device_needs
from testbed.running.first_observation import first_observation
from testbed.running.memory_over_time import shortage_ahead, why_last_token_never_fits

TOKENS, PROMPT = 246, "abcdefgh"
LENGTH = len(PROMPT) + TOKENS - 1
LINK = {"rate": "100 Mbit/s", "delay": "0.1 ms"}
Captured = pytest.CaptureFixture[str]


def experiment(memory: list[int], traces: list[dict[str, Any]] | None = None, **keys: Any) -> dict[str, Any]:
    devices = {
        name: {"streaming": "1 GB/s", "compute": "9 GFLOP/s", "storage": "1 GB/s", "memory": f"{size} B", "link": LINK}
        for name, size in zip("abc", memory, strict=False)
    }
    return {
        "model": {"preset": "tiny"}, "prompt": PROMPT, "tokens": TOKENS, "policy": "round-robin",
        "topology": {"name": "t", "source": "a", "devices": devices},
        "traces": traces or [],
    } | keys  # fmt: skip


def memory_trace(*rows: tuple[float, str, int], **keys: Any) -> dict[str, Any]:
    changes = [[time, f"device/{device}", "memory", float(size)] for time, device, size in rows]
    return {"name": "m", "end": "hold", "period": None, "changes": changes} | keys


def whole() -> int:
    """What one device holds of the whole model at the last token."""
    loaded = Experiment.from_dict(experiment([2**30]))
    start = first_observation(loaded, len(PROMPT))
    placement = any_placement(start)
    assert placement is not None
    return device_needs(start, placement, LENGTH)["a"]


WHOLE = whole()


def never(*memory: int, traces: list[dict[str, Any]] | None = None) -> str | None:
    return why_last_token_never_fits(Experiment.from_dict(experiment(list(memory), traces)), len(PROMPT))


def later(*memory: int, traces: list[dict[str, Any]], **keys: Any) -> str | None:
    return shortage_ahead(Experiment.from_dict(experiment(list(memory), traces, **keys)), len(PROMPT))


def test_one_device_lasts_with_its_need_to_the_byte_and_not_with_one_less() -> None:
    assert never(WHOLE) is None
    refusal = never(WHOLE - 1)
    assert refusal is not None and f"{LENGTH} tokens" in refusal
    assert never(WHOLE - 1, 1) is not None  # no block is so small
    assert never(WHOLE - PAGE_BYTES, WHOLE) is None


def test_blocks_are_whole_and_so_is_what_is_left_over() -> None:
    start = first_observation(Experiment.from_dict(experiment([2**30])), len(PROMPT))
    at_end = replace(start, tokens_done=TOKENS - 1)
    for first in range(WHOLE // 2, WHOLE, WHOLE // 24):
        rooms = [first, WHOLE - first + 30 * PAGE_BYTES]
        views = tuple(
            replace(start.devices[0], name=name, available_bytes=room) for name, room in zip("ab", rooms, strict=True)
        )
        fits = any_placement(replace(at_end, devices=views, links={"a": start.links["a"], "b": start.links["a"]}))
        assert (never(*rooms) is None) == (fits is not None)


def test_what_a_trace_gives_or_takes_only_warns() -> None:
    squeezed = [memory_trace((100, "a", WHOLE // 2))]
    assert never(WHOLE, traces=squeezed) is None
    warning = later(WHOLE, traces=squeezed)
    assert warning is not None and warning.startswith("after 104 of 246 tokens")
    assert later(WHOLE, 2**30, traces=[memory_trace((100, "a", WHOLE - PAGE_BYTES))]) is None  # b takes a block
    grown = [memory_trace((100, "a", WHOLE))]
    assert later(WHOLE - PAGE_BYTES, traces=grown) is None
    assert never(WHOLE - PAGE_BYTES, traces=grown) is None
    late = later(WHOLE - PAGE_BYTES, traces=[memory_trace((245, "a", WHOLE))])  # the last decision is at 240
    assert late is None
    assert never(WHOLE - PAGE_BYTES, traces=[memory_trace((245, "a", WHOLE))]) is not None


def test_a_trace_that_never_changes_memory_makes_it_no_less_constant() -> None:
    assert never(2**30, traces=[memory_trace((0, "a", WHOLE - 1))]) is not None
    assert never(WHOLE - 1, traces=[memory_trace((0, "a", WHOLE))]) is None
    rate = {"name": "r", "end": "hold", "period": None, "changes": [[9, "link/a", "up", 1e6]]}
    assert never(WHOLE - 1, traces=[rate]) is not None


def test_on_the_time_clock_a_warning_says_from_when_on_or_that_no_time_will_do() -> None:
    clock = {"trace_clock": "time"}
    found = later(WHOLE, traces=[memory_trace((3, "a", PAGE_BYTES))], **clock)
    assert found is not None and found.startswith("3 s after the first token no placement can fit")
    found = later(WHOLE, traces=[memory_trace((3, "a", WHOLE - 1))], **clock)
    assert found is not None and found.startswith("a run of over 3 s")
    found = later(WHOLE - 2, traces=[memory_trace((3, "a", WHOLE - 1))], **clock)
    assert found is not None and "most memory" in found
    looped = memory_trace((0, "a", WHOLE), (3, "a", WHOLE - 1), (6, "a", WHOLE), end="loop", period=6.0)
    assert later(WHOLE, traces=[looped], **clock) is None


def write(tmp_path: Path, content: dict[str, Any], name: str = "e.yaml") -> str:
    path = tmp_path / name
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    "verb",
    [["replay", "--backend", "sim"], ["replay", "--dry-run"], ["compare", "--backend", "sim", "--policy", "greedy"]],
)
def test_a_run_that_cannot_last_is_refused_before_anything_starts(
    verb: list[str], tmp_path: Path, capsys: Captured
) -> None:
    path = write(tmp_path, experiment([WHOLE // 2, WHOLE // 2 - 9 * PAGE_BYTES]))
    out = [] if "--dry-run" in verb else ["--out", str(tmp_path / "runs")]
    assert run([verb[0], path, *verb[1:], *out]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no placement can last to the last token" in said and f"{LENGTH} tokens" in said
    assert not (tmp_path / "runs").exists()


def test_a_sweep_counts_a_run_that_cannot_last_as_infeasible(tmp_path: Path, capsys: Captured) -> None:
    write(tmp_path, experiment([WHOLE // 2, WHOLE // 2 - 9 * PAGE_BYTES]))
    sweep = write(tmp_path, {"experiment": "e.yaml"}, "s.yaml")
    assert run(["sweep", sweep, "--out", str(tmp_path / "runs"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["error_kind"] == "Infeasible" and "no placement can last to the last token" in row["error"]


@pytest.mark.parametrize("verb", [["replay", "--backend", "sim"], ["replay", "--dry-run"],
                                  ["compare", "--backend", "sim", "--policy", "greedy", "--seeds", "2"]])  # fmt: skip
def test_memory_that_a_trace_takes_away_is_a_warning(verb: list[str], tmp_path: Path, capsys: Captured) -> None:
    path = write(tmp_path, experiment([WHOLE], [memory_trace((40, "a", WHOLE // 2))], tokens=60, grace=9))
    out = [] if "--dry-run" in verb else ["--out", str(tmp_path / "runs")]
    assert run([verb[0], path, *verb[1:], *out]) in (0, 5)
    said = capsys.readouterr().err
    assert "Warning: " in said and "no" in said and "tokens" in said
