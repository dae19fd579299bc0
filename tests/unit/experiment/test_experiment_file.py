"""An experiment file is understood completely, or refused in one sentence before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refusal

from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.models.presets import PRESETS, packaged_shape
from testbed.shape import WeightFormats

REPOSITORY = Path(__file__).resolve().parents[3]
GPT2_STAR4 = REPOSITORY / "experiments" / "gpt2-star4.yaml"
MIB = 2**20

NETWORK = """
source: a
devices:
  a: {streaming: 3 GB/s, compute: 9 GFLOP/s, memory: 64 MiB, storage: 90 MB/s, link: {rate: 100 Mbit/s, delay: 1 ms}}
  b: {streaming: 1 GB/s, compute: 9 GFLOP/s, memory: 32 MiB, storage: 90 MB/s, link: {rate: 50 Mbit/s}}
"""
TRACE = "time,target,quantity,value\n0,link/b,rate,50 Mbit/s\n8,link/b,rate,5 Mbit/s\n16,device/a,memory,48 MiB\n"
BASE: dict[str, Any] = {
    "model": {"preset": "tiny", "seed": 3},
    "prompt": "hello",
    "tokens": 16,
    "topology": "../nets/two.yaml",
    "traces": ["../traces/slow.csv"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an experiment's files, each in a place of its own."""
    for path, text in {"nets/two.yaml": NETWORK, "traces/slow.csv": TRACE, "words.txt": "from a file"}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "plans").mkdir()
    return tmp_path


def write(folder: Path, **changes: Any) -> Path:
    """An experiment file: BASE with top-level changes; None takes a key out."""
    path = folder / "plans" / "try.yaml"
    mapping = {key: value for key, value in (BASE | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(mapping, sort_keys=False))
    return path


def error_of(path: Path, *overrides: str) -> str:
    return refusal(lambda: Experiment.load(path, overrides))


# --- what a good file means -------------------------------------------------------------------------------


def test_a_shipped_experiment_is_what_its_file_says() -> None:
    experiment = Experiment.load(GPT2_STAR4)
    assert (experiment.name, experiment.model.preset, experiment.model.seed) == ("gpt2-star4", "gpt2", 7)
    assert (experiment.tokens, experiment.interval, experiment.trace_clock) == (96, 8, "token")
    assert (experiment.policy, experiment.weights, experiment.delay) == ("paper-search", "staged", "auto")
    assert [device.name for device in experiment.topology.devices] == ["a", "b", "c", "d"]
    before, after = experiment.traces.at(39), experiment.traces.at(48)
    assert before == {}, "until the first change the topology's values hold"
    assert after["link/c", "up"] < experiment.topology.device("c").link.up_bps
    assert after["device/b", "memory"] == 72 * MIB < experiment.topology.device("b").memory_bytes == 176 * MIB


def test_paths_in_a_file_are_relative_to_it(folder: Path) -> None:
    experiment = Experiment.load(write(folder, prompt={"file": "../words.txt"}))
    assert experiment.prompt.text == "from a file"
    assert experiment.topology.name == "two"
    assert experiment.traces.targets() == ("device/a", "link/b")


def test_paths_in_overrides_are_relative_to_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "other.yaml").write_text(NETWORK.replace("source: a", "source: b"))
    overrides = ["topology=other.yaml", "traces=[traces/slow.csv]", "prompt.file=words.txt"]
    experiment = Experiment.load(write(folder, traces=None), overrides)
    assert (experiment.topology.name, experiment.topology.source) == ("other", "b")
    assert experiment.traces.targets() and experiment.prompt.text == "from a file"


def test_formats_are_part_of_the_models_shape(folder: Path) -> None:
    shape = Experiment.load(write(folder), ["model.format=q4_1", "model.kv_format=float16"]).shape
    assert shape.weights == WeightFormats("q4_1", "q4_1", "q4_1", "q4_1", "q4_1", "float32", "q4_1")
    assert (shape.kv_format, shape.wire_format) == ("float16", "float32")


def test_overrides_reach_into_the_inlined_topology(folder: Path) -> None:
    overrides = ["topology.devices.b.memory=8 MiB", "topology.devices.b.link.rate=1 Mbit/s", "topology.source=b"]
    experiment = Experiment.load(write(folder), overrides)
    device = experiment.topology.device("b")
    assert (device.memory_bytes, device.link.down_bps, experiment.topology.source) == (8 * MIB, 1e6, "b")


def test_overrides_take_yaml_values_and_the_last_one_wins() -> None:
    overrides = ["tokens=4", "tokens=16", "traces=[]", "model.preset=tiny", "charge_decision=true", "dilation=2.5"]
    overrides += ["policy_options={deadline: 500 ms}", "policy_options.depth=2"]
    experiment = Experiment.load(GPT2_STAR4, overrides)
    assert (experiment.tokens, experiment.traces.targets(), experiment.model.preset) == (16, (), "tiny")
    assert (experiment.charge_decision, experiment.dilation, experiment.model.seed) == (True, 2.5, 7)
    assert experiment.policy_options == {"deadline": "500 ms", "depth": 2}


def test_an_override_of_one_alternative_replaces_the_other(folder: Path) -> None:
    experiment = Experiment.load(write(folder), ["prompt.ids=[1, 2, 3]"])
    assert (experiment.prompt.ids, experiment.prompt.text, experiment.prompt_tokens) == ((1, 2, 3), None, 3)


def test_a_presets_prompt_has_one_token_per_byte_of_utf8(folder: Path) -> None:
    assert Experiment.load(write(folder, prompt="Kopf λ")).prompt_tokens == 7


def test_a_trace_entry_may_say_how_to_read_its_file(folder: Path) -> None:
    (folder / "traces" / "walk.up").write_text("\n".join(str(ms) for ms in range(0, 4000, 2)))
    entry = {"path": "../traces/walk.up", "format": "mahimahi", "target": "link/a", "direction": "down"}
    plain, binned, held = (
        Experiment.load(write(folder, traces=[entry | more])).traces
        for more in ({}, {"bin": 2}, {"bin": "2 s", "end": "hold"})
    )
    assert plain.targets() == ("link/a",) and set(plain.at(0)) == {("link/a", "down")}
    assert plain.traces[0].period == binned.traces[0].period != held.traces[0].period
    assert len(binned.traces[0].changes) < len(plain.traces[0].changes)


def test_a_fixed_placement_names_blocks_by_pattern(folder: Path) -> None:
    placement = {"*": "b", "head(0,*)": "a", "ffn(3)": "a"}
    assert Experiment.load(write(folder, placement=placement)).placement == placement
    assert Experiment.load(write(folder), ["placement={'*': a}"]).placement == {"*": "a"}


# --- round trips ------------------------------------------------------------------------------------------


def test_a_manifest_replays_without_the_files_it_came_from(folder: Path) -> None:
    experiment = Experiment.load(write(folder, prompt={"file": "../words.txt"}, placement={"*": "a"}))
    written = json.dumps(experiment.to_dict())
    for path in sorted(folder.rglob("*.*")):
        path.unlink()
    again = Experiment.from_dict(json.loads(written))
    assert again == experiment and json.dumps(again.to_dict()) == written


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "prompt": st.text(min_size=1, max_size=20).map(lambda text: {"text": text})
            | st.lists(st.integers(0, 255), min_size=1, max_size=8).map(lambda ids: {"ids": ids}),
            "tokens": st.integers(1, 400),
            "interval": st.integers(1, 1000),
            "trace_clock": st.sampled_from(["token", "time"]),
            "policy": st.sampled_from(["static", "greedy"]),
            "policy_options": st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
            "placement": st.none() | st.dictionaries(st.sampled_from(["*", "proj(1)"]), st.sampled_from(["a", "b"])),
            "weights": st.sampled_from(["staged", "shipped"]),
            "delay": st.sampled_from(["auto", "netem", "transport"]),
            "dilation": st.floats(1, 1e6),
            "seed": st.integers(0, 2**53 - 1),
            "grace": st.integers(0, 9),
            "prefill_chunk": st.integers(1, 999),
            "observation": st.just("oracle"),
            "compute": st.sampled_from(["paced", "native", "quota"]),
            "charge_decision": st.booleans(),
        },
    )
)
def test_to_dict_survives_json_whatever_the_settings(changes: dict[str, Any]) -> None:
    base = {"model": {"preset": "tiny"}, "prompt": "x", "tokens": 1, "topology": yaml.safe_load(NETWORK)}
    experiment = Experiment.from_dict(base | changes)
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokns": 3}, ["try.yaml", "'tokns'", "did you mean 'tokens'"]),
        ({"tokns": 3, "tokens": None}, ["try.yaml", "'tokns'", "did you mean 'tokens'"]),
        ({"tokens": None}, ["try.yaml", "'tokens' is missing"]),
        ({"tokens": "many"}, ["try.yaml", "tokens is 'many'", "whole number"]),
        ({"tokens": 0}, ["tokens is 0", "greater than or equal to 1"]),
        ({"tokens": True}, ["tokens is True", "whole number"]),
        ({"tokens": 509}, ["514", "512"]),
        ({"interval": 0}, ["interval is 0"]),
        ({"seed": 1.5}, ["seed is 1.5"]),
        ({"dilation": 0.5}, ["dilation is 0.5", "1"]),
        ({"dilation": float("inf")}, ["dilation is inf", "finite"]),
        ({"trace_clock": "tokens"}, ["trace_clock is 'tokens'", "'token' or 'time'"]),
        ({"policy": 3}, ["policy is 3"]),
        ({"switch": "ovs"}, ["switch is 'ovs'", "'linuxbridge' or 'openvswitch'"]),
        ({"partition": {"ffn_shards": 3}}, ["partition.ffn_shards is 3", "power of two"]),
        ({"partition": {"ffn_shards": 512}}, ["partition.ffn_shards is 512", "does not divide 256"]),
        ({"partition": {"vocab_shards": 0}}, ["partition.vocab_shards is 0", "at least 1"]),
        ({"partition": {"vocab_shards": 200}}, ["partition.vocab_shards is 200", "without any of the 256 words"]),
        ({"partition": {"exchange": "ring"}}, ["partition.exchange is 'ring'", "hub or all-to-all"]),
        (
            {"partition": {"exchange": "all-to-all", "ffn_shards": 2}},
            ["partition.exchange is 'all-to-all'", "proj_rows false", "partial sums"],
        ),
        ({"partition": {"proj_rows": 1}}, ["partition.proj_rows is 1", "true or false"]),
        ({"partition": {"shards": 1}}, ["'shards'", "did you mean 'ffn_shards'"]),
        (
            {"model": {"preset": "tiny", "format": "q8_0"}, "partition": {"proj_rows": True}},
            ["partition.proj_rows would give each head 16 numbers", "in q8_0 a block is 32"],
        ),
        (
            {"model": {"preset": "tiny", "format": "q4_1"}, "partition": {"ffn_shards": 16}},
            ["partition.ffn_shards is 16", "each shard 16 numbers", "in q4_1 a block is 32"],
        ),
        (
            {"model": {"preset": "tiny", "heads": 3, "format": "q4_0"}},
            ["model.format is q4_0", "blocks are 32 numbers", "rows of qkv of tiny-3-head have 48"],
        ),
        ({"model": {"preset": "tiny", "format": "q5_0"}}, ["model.format is 'q5_0'", "'q4_0' or 'q4_1'"]),
        ({"model": {"preset": "tiny", "kv_format": "q8_0"}}, ["model.kv_format is 'q8_0'", "or 'float16'"]),
        ({"model": {"preset": "gpt3"}}, ["model", "'gpt3'", "did you mean 'gpt2'"]),
        ({"model": {"prest": "tiny"}}, ["'prest'", "did you mean 'preset'"]),
        ({"model": {}}, ["model", "preset or path"]),
        ({"model": "tiny"}, ["model is 'tiny', but it has keys", "`model.preset=tiny`"]),
        ({"prompt": {"text": "a", "ids": [1]}}, ["prompt", "text, file, chat or ids"]),
        ({"prompt": {"txt": "a"}}, ["'txt'", "did you mean 'text'"]),
        ({"prompt": {"ids": []}}, ["prompt", "ids is empty"]),
        ({"prompt": {"ids": [1, 256]}}, ["prompt.ids has 256", "255"]),
        ({"prompt": {"ids": [1, -1]}}, ["prompt.ids.1 is -1"]),
        ({"prompt": ""}, ["prompt.text is ''"]),
        ({"prompt": {"file": "nope.txt"}}, ["try.yaml: prompt.file", "nope.txt", "no such file"]),
        ({"topology": "nope.yaml"}, ["try.yaml: topology", "nope.yaml", "no such file"]),
        ({"topology": 7}, ["try.yaml: topology", "mapping"]),
        ({"traces": "slow.csv"}, ["traces must be a list", "'slow.csv'"]),
        ({"traces": ["nope.csv"]}, ["nope.csv"]),
        ({"traces": [{"path": "../traces/slow.csv", "edn": "loop"}]}, ["traces.0", "'edn'", "did you mean 'end'"]),
        ({"traces": [{"end": "loop"}]}, ["traces.0.path"]),
        ({"traces": [{"path": "../traces/slow.csv", "format": ["x"]}]}, ["traces.0.format is ['x']"]),
        ({"traces": ["../traces/slow.csv"] * 2}, ["try.yaml", "slow", "link/b"]),
        ({"placement": {"*": "z"}}, ["placement", "'z'", "choose from a, b"]),
        ({"placement": {"haed(0,*)": "a"}}, ["placement", "'haed(0,*)'", "head(layer,index)"]),
        ({"placement": {"ffn(9)": "a"}}, ["placement", "'ffn(9)'", "tiny"]),
    ],
)
def test_a_slip_is_one_sentence_with_file_key_and_remedy(
    folder: Path, changes: dict[str, Any], expected: list[str]
) -> None:
    message = error_of(write(folder, **changes))
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tokns=3", ["--set tokns=3", "did you mean 'tokens'"]),
        ("tokens", ["--set tokens", "key=value"]),
        ("=3", ["--set =3", "key=value"]),
        ("tokens=-3", ["try.yaml with --set tokens=-3", "tokens is -3"]),
        ("tokens.x=3", ["--set tokens.x=3", "tokens is 16"]),
        ("tokens=[3", ["--set tokens=[3", "YAML"]),
        ("traces.4.end=loop", ["--set traces.4.end=loop", "1 entries"]),
        ("traces.0.path=nope.csv", ["nope.csv"]),
        (
            "topology.devices.b.link.rate=-5 Mbit/s",
            ["two.yaml with --set topology", "devices.b.link.rate", "'-5 Mbit/s'"],
        ),
        ("topology.devices.b.memory=64", ["two.yaml with --set topology", "devices.b.memory", "'64'", "256 MiB"]),
        ("topology.source=z", ["two.yaml with --set topology.source=z", "source is 'z'", "a, b"]),
        ("topology=nope.yaml", ["--set topology=nope.yaml", "no such file"]),
        ("prompt=", ["--set prompt=", "prompt"]),
    ],
)
def test_a_wrong_override_is_named_in_the_sentence(folder: Path, override: str, expected: list[str]) -> None:
    message = error_of(write(folder), override)
    for part in expected:
        assert part in message


def test_a_mistake_in_the_topology_file_names_that_file(folder: Path) -> None:
    (folder / "nets" / "two.yaml").write_text(NETWORK.replace("source: a", "source: e"))
    message = error_of(write(folder))
    assert message.startswith(f"{folder / 'nets' / 'two.yaml'}: source is 'e'")


def test_a_trace_with_a_wrong_row_names_file_and_line(folder: Path) -> None:
    (folder / "traces" / "slow.csv").write_text(TRACE.replace("8,link", "8,9,link"))
    message = error_of(write(folder))
    assert "slow.csv" in message and "3" in message


def test_a_trace_for_a_device_that_is_not_there_names_both(folder: Path) -> None:
    (folder / "traces" / "slow.csv").write_text(TRACE.replace("link/b", "link/e"))
    message = error_of(write(folder))
    assert "trace slow drives link/e" in message and "topology two has only the devices a, b" in message


@pytest.mark.parametrize(("target", "fine"), [("link/b", False), ("link/b-c", True), ("device/b", True)])
def test_in_a_ring_a_trace_drives_a_link_by_its_name(target: str, fine: bool) -> None:
    device = {"streaming": "1 GB/s", "compute": "1 GFLOP/s", "memory": "64 MiB", "storage": "1 GB/s"}
    ring = {"shape": "ring", "source": "a", "devices": dict.fromkeys("abc", device), "link": {"rate": "1 Mbit/s"}}
    quantity = "up" if target.startswith("link") else "memory"
    trace = {"name": "t", "end": "hold", "period": None, "changes": [[0, target, quantity, 1e6]]}
    mapping = {"model": {"preset": "tiny"}, "prompt": "x", "tokens": 1, "topology": ring, "traces": [trace]}
    if fine:
        assert Experiment.from_dict(mapping).traces.targets() == (target,)
    else:
        with pytest.raises(ConfigError, match="link/b, but topology .* has only the links a-b, b-c, c-a"):
            Experiment.from_dict(mapping)


def test_loss_or_jitter_and_receivers_that_hold_messages_exclude_each_other(folder: Path) -> None:
    (folder / "traces" / "slow.csv").write_text("time,target,quantity,value\n8,link/b,loss,1 %\n")
    assert Experiment.load(write(folder)).needs_netem == "b"
    assert "link b has loss or jitter" in error_of(write(folder, delay="transport"))
    (folder / "traces" / "slow.csv").write_text("time,target,quantity,value\n8,link/b,loss,0 %\n")
    assert Experiment.load(write(folder, delay="transport")).needs_netem is None


def test_a_pause_needs_the_clock_of_seconds(folder: Path) -> None:
    (folder / "traces" / "slow.csv").write_text("time,target,quantity,value\n8,device/b,pause,on\n9,device/b,pause,0\n")
    assert "never end on the token clock" in error_of(write(folder))
    experiment = Experiment.load(write(folder, trace_clock="time"))
    assert [experiment.traces.at(time)["device/b", "pause"] for time in (8, 9)] == [1.0, 0.0]
    (folder / "traces" / "slow.csv").write_text("time,target,quantity,value\n8,device/b,pause,half\n")
    assert "'half' is neither on nor off" in error_of(write(folder, trace_clock="time"))


def test_a_key_written_twice_is_refused(folder: Path) -> None:
    path = write(folder)
    path.write_text(path.read_text() + "tokens: 4\n")
    assert "'tokens' appears twice" in error_of(path)


def test_a_missing_experiment_file_is_named(tmp_path: Path) -> None:
    assert "nope.yaml: there is no such file" in error_of(tmp_path / "nope.yaml")


def test_every_preset_can_be_an_experiments_model(folder: Path) -> None:
    for name in PRESETS:
        assert Experiment.load(write(folder), [f"model.preset={name}"]).shape == packaged_shape(name)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("topology.devices.zz.memory=64 MiB", ["topology.devices has no 'zz'", "a, b"]),
        ("topology.devices.a.lnk.rate=1 Mbit/s", ["topology.devices.a has no 'lnk'", "'link'"]),
        ("seed=9007199254740992", ["seed", "less than or equal"]),
        (f"seed={'9' * 5000}", ["no number"]),
        ("tokens=1000000000000", ["tokens", "less than or equal"]),
        ("interval=4611686018427387904", ["interval", "less than or equal"]),
        ("decision_limit=1e300", ["decision_limit", "less than or equal"]),
        ("dilation=1e300", ["dilation", "less than or equal"]),
        ("topology={generate: paper, devices: 1000000000000000000}", ["devices", "at most 1000"]),
        ("traces=[{generate: fluctuation, target: link/*, step: 1e-9}]", ["step"]),
        ("traces=[{generate: cellular-walk, target: link/a, step: 1e-9}]", ["steps"]),
        ("traces=&a [*a]", ["in itself"]),
        ("tokens=!!int x", ["tagged !!int"]),
    ],
)
def test_an_override_out_of_all_proportion_is_one_sentence(override: str, expected: list[str]) -> None:
    assert len(refusal(lambda: Experiment.load(GPT2_STAR4, [override]), *expected)) < 500


@pytest.mark.parametrize("options", ["{x: {on: 1}}", "{x: {1: 2}}", "{x: [{null: 2}]}"])
def test_an_option_whose_name_is_no_text_is_refused(options: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no name of an option, unless it is written in quotes"):
        Experiment.load(GPT2_STAR4, [f"policy_options={options}"])
