"""`explain` and `export` on emulated runs: parts add up to latencies, and devices are busy as in the table of spans."""

from __future__ import annotations

import json
import math
from collections import defaultdict

import pytest
from running import QUICKSTART, ROOT, TINY, UNJUDGED, Place
from trace_event_rules import broken_rules

from testbed.runlog.folder import read_rows
from testbed.running.explain import explain
from testbed.running.export import export_trace

TOGETHER = "partition={ffn_shards: 2, proj_rows: true, exchange: all-to-all}"


@pytest.mark.parametrize(
    ("topology", "arguments"),
    [
        ("star4", ("--policy", "round-robin")),
        ("two-tier6", ("--policy", "round-robin")),
        ("star4", ("--policy", "tensor-parallel", "--set", TOGETHER)),
    ],
)
def test_the_parts_add_up_and_the_export_is_as_busy_as_the_spans(
    place: Place, topology: str, arguments: tuple[str, ...]
) -> None:
    network = f"topology={ROOT / 'topologies' / topology}.yaml"
    ended = place.replay(QUICKSTART, *TINY, *UNJUDGED, "--tokens", "12", "--set", network, *arguments)
    assert ended.code == 0, ended.err
    folder, out = ended.folder, place.base / "trace.json"
    recorded = {row["step"]: row for row in read_rows(folder, "tokens")}
    for token in explain(folder, tuple(recorded))["tokens"]:
        parts, row = token["parts_ms"], recorded[token["token"]]
        assert math.fsum(parts.values()) == pytest.approx(row["latency_s"] * 1e3, rel=0.01)
        assert 0 < parts["computing"] < 1e3 * row["latency_s"] and parts["sending"] > 0
    export_trace(folder, out)
    document = json.loads(out.read_text())
    assert broken_rules(document) == []
    busy: dict[int, float] = defaultdict(float)
    names = {
        event["pid"]: event["args"]["name"] for event in document["traceEvents"] if event["name"] == "process_name"
    }
    for event in document["traceEvents"]:
        if event["ph"] == "X" and event["cat"] == "block":
            busy[names[event["pid"]]] += event["dur"] / 1e6
    wanted: dict[str, float] = defaultdict(float)
    for row in read_rows(folder, "spans"):
        if row["kind"] == "block":
            wanted[f"device {row['device']}"] += row["end_s"] - row["start_s"]
    assert dict(busy) == pytest.approx(dict(wanted), abs=1e-6)
