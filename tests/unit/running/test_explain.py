"""`explain`: the parts of a token add up, whatever the network and the exchange, and say what bounds it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from simulated import experiment
from synthetic_run import make_run

from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import wire_bytes
from testbed.runlog.folder import RunLog, read_rows
from testbed.running.explain import PARTS, Network, explain
from testbed.running.export import export_trace
from testbed.running.replay import replay_once
from testbed.topologies.model import Topology
from testbed.traces import Change

ROOT = Path(__file__).parents[3]
TOGETHER = {"ffn_shards": 4, "proj_rows": True, "exchange": "all-to-all"}


def on(name: str, **keys: Any) -> Experiment:
    """The experiment for a bundled topology, without traces."""
    topology = Topology.load(ROOT / "topologies" / f"{name}.yaml").to_dict()
    return experiment("tokens=20", changes=(), topology=topology, **keys)


def explained(out: Path, of: Experiment, tokens: tuple[int, ...] = ()) -> dict[str, Any]:
    return explain(replay_once(of, "sim", out)["path"], tokens)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("star4", {}),
        ("star4", {"policy": "round-robin"}),
        ("star4", {"policy": "round-robin", "partition": {"ffn_shards": 4, "vocab_shards": 4}}),
        ("two-tier6", {"policy": "round-robin"}),
        ("mesh4", {"policy": "round-robin"}),
        ("ring5", {"policy": "round-robin"}),
        ("wifi4", {"policy": "round-robin"}),
        ("star4", {"policy": "tensor-parallel", "partition": TOGETHER}),
        ("two-tier6", {"policy": "tensor-parallel", "partition": TOGETHER}),
    ],
)
def test_the_parts_add_up_to_the_latency(tmp_path: Path, name: str, keys: dict[str, Any]) -> None:
    of = on(name, **keys)
    for tokens in ((), (0, 1, 19)):
        for token in explained(tmp_path, of, tokens)["tokens"]:
            assert not token["changed"]  # the stages are the cost model's latency
            assert math.fsum(token["parts_ms"].values()) == pytest.approx(token["latency_ms"], rel=1e-9)
            assert math.fsum(row["ms"] for row in token["places"]) == pytest.approx(token["latency_ms"], rel=1e-9)
            assert set(token["parts_ms"]) == set(PARTS) and min(token["parts_ms"].values()) >= 0


def test_a_link_that_collapses_becomes_the_bound(tmp_path: Path) -> None:
    rows = tuple(Change(8, "link/b", way, 1e5) for way in ("up", "down"))
    of = experiment("tokens=16", changes=rows, policy="round-robin")
    before, after = explained(tmp_path, of, (7, 15))["tokens"]
    assert not before["bound"].startswith("link b") and after["bound"].startswith("link b")
    assert after["parts_ms"]["sending"] > 10 * before["parts_ms"]["sending"]


def test_the_median_and_the_slowest_tokens_are_chosen_with_what_came_before_them(tmp_path: Path) -> None:
    found = explained(tmp_path, experiment())
    assert [token["which"] for token in found["tokens"]] == ["median", *["slowest"] * 3]
    stalled = [token for token in found["tokens"] if token["stall_ms"]]
    assert stalled and stalled[0]["token"] % 8 == 0
    assert abs(found["tokens"][0]["latency_ms"] - found["median_ms"]) < 1.0


def test_a_change_during_a_token_is_told(tmp_path: Path) -> None:
    rows = (Change(1.0, "link/b", "up", 5e6), Change(1.0, "link/b", "down", 5e6))
    found = explained(tmp_path, experiment("tokens=16", "trace_clock=time", changes=rows, policy="round-robin"))
    every = explained(tmp_path, experiment("tokens=16", "trace_clock=time", changes=rows, policy="round-robin"),
                      tuple(range(16)))  # fmt: skip
    changed = [token for token in every["tokens"] if token["changed"]]
    assert len(changed) == 1 and "conditions changed during token" in every["notes"][0]
    assert len(found["tokens"]) == 4
    for token in every["tokens"]:
        assert math.fsum(token["parts_ms"].values()) == pytest.approx(token["latency_ms"], rel=1e-9)


@pytest.mark.parametrize("partition", [{}, {"ffn_shards": 4, "vocab_shards": 4}, TOGETHER])
def test_what_a_lost_packet_costs_is_its_links_delay(tmp_path: Path, partition: dict[str, Any]) -> None:
    lossy = ("tokens=20", "topology.devices.b.link.loss=2 %", "topology.devices.c.link.jitter=0.2 ms")
    found = explained(tmp_path, experiment(*lossy, changes=(), policy="tensor-parallel", partition=partition))
    median, slowest = found["tokens"][:2]
    later = {part: slowest["parts_ms"][part] - median["parts_ms"][part] for part in PARTS}
    assert not found["notes"] and slowest["latency_ms"] > 1.2 * median["latency_ms"]
    assert later["delay"] == pytest.approx(slowest["latency_ms"] - median["latency_ms"], rel=0.1)


def test_tokens_whose_spans_a_killed_run_did_not_collect_are_not_explained(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tokens=9, finished=False)
    log = RunLog(folder)
    topology = Topology.load(ROOT / "topologies" / "star4.yaml").to_dict()
    log.write_manifest(log.read_manifest() | {"experiment": {"topology": topology}})
    log.row("tokens", step=9, epoch=0, prefill=False, start_s=9.0, latency_s=9.0)
    log.close()
    assert 9 not in {token["token"] for token in explain(folder)["tokens"]}
    with pytest.raises(ConfigError, match="has no spans of these tokens"):
        explain(folder, (8, 9))


def test_a_token_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--token 20: .* has no such token: it has 0 to 19"):
        explained(tmp_path, on("star4"), (20,))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"latency_s":', '"latency":'), ('"device":"a"', '"device":"z"')],
    ids=["no latency", "another device"],
)
def test_tables_that_do_not_fit_together_are_one_sentence(tmp_path: Path, old: str, new: str) -> None:
    folder = Path(replay_once(on("star4"), "sim", tmp_path)["path"])
    for table in ("tokens", "placements"):
        rows = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in read_rows(folder, table))
        (folder / f"{table}.parquet").unlink()
        (folder / f"{table}.jsonl").write_text(rows.replace(old, new))
    for verb in (explain, lambda run: export_trace(run, tmp_path / "trace.json")):
        with pytest.raises(ConfigError, match="is damaged: its tables and its manifest do not fit together"):
            verb(folder)


def test_a_message_does_not_wait_for_itself_on_a_medium() -> None:
    network = Network(Topology.load(ROOT / "topologies" / "wifi4.yaml"), [])
    messages = [{"device": "a", "peer": "b", "bytes": 100_000, "start_s": 0.0, "end_s": 1.0}]
    shares = network.shares(messages)[id(messages[0])]
    bits = wire_bytes(100_000) * 8
    sent = math.fsum(seconds for name, _, seconds in shares if name == "sending")
    assert sent == pytest.approx(2 * bits / 80e6 - 0.0008)  # less what passes during the first delay
    assert all(seconds == 0 for name, _, seconds in shares if name == "waiting")


def test_messages_wait_for_each_other_on_a_shared_link() -> None:
    network = Network(Topology.load(ROOT / "topologies" / "star4.yaml"), [])
    sent = {"device": "a", "bytes": 10_000, "start_s": 0.0, "end_s": 1.0}
    messages = [sent | {"peer": "b"}, sent | {"peer": "c"}]
    first, second = (network.shares(messages)[id(message)] for message in messages)
    waited = {hop: seconds for name, hop, seconds in second if name == "waiting"}
    assert all(seconds == 0 for name, _, seconds in first if name == "waiting")
    assert waited["a", "up"] > 0 and waited["c", "down"] == 0
