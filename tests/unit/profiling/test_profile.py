"""A whole profile, its entry for the catalogue, and the parts that are no computing."""

from __future__ import annotations

import math
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from profiling_cases import TINY

from testbed.cli import run
from testbed.decoder.checkpoint import read_shape, require_model
from testbed.decoder.kernels import quantise
from testbed.decoder.stored_weights import StoredWeights
from testbed.errors import ConfigError, EnvironmentLacks
from testbed.profiling import llama_cpp, storage
from testbed.profiling.computing import Computing
from testbed.profiling.decoders import Headroom, HeadroomEngine
from testbed.profiling.entry import entry_text, link_entry
from testbed.profiling.gguf_file import write_llama
from testbed.profiling.messages import Echo, parse_address, time_link, time_messages
from testbed.profiling.numbers import Measured, over_good_rounds
from testbed.profiling.profile import Profile, profile
from testbed.topologies import catalogue
from testbed.topologies.model import Topology


@pytest.fixture(scope="module")
def tiny_profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Everything measured but the rates, which mean nothing of models so small."""
    said: list[str] = []
    found = profile(HeadroomEngine(), TINY, tmp_path_factory.mktemp("storage"), say=said.append)
    assert len(said) == 1 + TINY.rounds

    def rates(one: float) -> dict[str, Measured]:
        return {
            name: Measured(one / n, 0.9 * one / n, 1.1 * one / n) for n, name in enumerate(HeadroomEngine.formats, 1)
        }

    made_up = Computing(rates(9e9), rates(40e9), Measured(15e9, 14e9, 16e9), Measured(12e-6, 11e-6, 13e-6), TINY.rounds)
    return replace(found, computing=made_up)


def test_a_profile_is_an_entry_of_the_catalogue(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "catalogue.yaml"
    file.write_text(catalogue.CATALOGUE_FILE.read_text() + "\n" + entry_text(tiny_profile))
    monkeypatch.setattr(catalogue, "CATALOGUE_FILE", file)
    catalogue.boards.cache_clear()
    try:
        board = catalogue.boards()[tiny_profile.entry_name]
        assert set(board.provenances.values()) <= {"same-board", "default"}
        device = {"catalogue": board.name, "link": {"rate": "1 Gbit/s"}}
        model = Topology.from_dict({"source": "a", "devices": {"a": device}}).device("a").model
    finally:
        monkeypatch.undo()
        catalogue.boards.cache_clear()
    computing = tiny_profile.computing
    assert dict(model.streaming_Bps)["q4_0"] == pytest.approx(computing.streaming_Bps["q4_0"].value, rel=1e-2)
    assert dict(model.compute_flops)["float16"] == pytest.approx(computing.compute_flops["float16"].value, rel=1e-2)
    assert model.kv_streaming_Bps == pytest.approx(computing.kv_streaming_Bps.value, rel=1e-2)
    assert model.barrier_s == pytest.approx(computing.barrier_s.value, rel=1e-2)
    assert model.send_s == pytest.approx(tiny_profile.messages.send_s.value, rel=1e-2) and model.threads == 1


def test_every_measured_value_has_its_spread_and_its_source(tiny_profile: Profile) -> None:
    (fields,) = yaml.safe_load(entry_text(tiny_profile)).values()
    measured: list[dict[str, Any]] = [one for key, one in fields.items() if key not in ("board", "memory", "threads")]
    for one in measured:
        assert "spread" in one or one["provenance"] == "default"
    assert "testbed profile, headroom" in fields["streaming"]["source"]


def test_rates_that_differ_widely_between_rounds_are_named_and_those_that_are_none_refused(
    tiny_profile: Profile,
) -> None:
    def with_cache(one: Measured) -> Profile:
        computing = replace(tiny_profile.computing, kv_streaming_Bps=one)
        return replace(tiny_profile, computing=computing, storage_Bps=None)

    assert with_cache(Measured(5e9, 4e9, 6e9)).unsteady() == []
    assert with_cache(Measured(5e9, 2e9, 9e9)).unsteady() == ["kv_streaming"]
    assert over_good_rounds([4e9, math.inf, 5e9]) == Measured(4.5e9, 4e9, 5e9)
    with pytest.raises(EnvironmentLacks, match="kv_streaming cannot be told from times that contradict one another"):
        with_cache(over_good_rounds([4e9, math.inf, math.inf])).unsteady()


def test_an_entry_is_named_after_the_machine_and_the_engine(tiny_profile: Profile) -> None:
    assert replace(tiny_profile, engine="llama.cpp").entry_name == f"{tiny_profile.machine.name}-llama-cpp"


def test_numbers_for_programs_are_in_si_units(tiny_profile: Profile) -> None:
    told = tiny_profile.to_dict()
    assert told["streaming_Bps"]["q8_0"]["least"] <= told["streaming_Bps"]["q8_0"]["value"]
    assert told["engine"] == "headroom" and told["rounds"] == TINY.rounds and told["link"] is None


def test_half_a_round_trip_on_the_loopback_is_sending_and_receiving() -> None:
    found = time_messages(rounds=2, trips=5)
    assert found.send_s.value > 0 and 0 < found.send_s.value + found.receive_s.value < 0.1
    assert found.send_s_per_byte.value >= 0 and found.receive_s_per_byte.value >= 0


def test_the_link_to_a_peer_is_measured() -> None:
    echo = Echo().start()
    here = time_messages(rounds=1, trips=5)
    found = time_link(echo.address, here, rounds=2, trips=5, stream=2**20)
    echo.close()
    assert found.rate_bps.value > 1e6 and found.delay_s.value < 0.1


def test_nobody_at_an_address_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with pytest.raises(EnvironmentLacks, match=f"nobody answers at 127.0.0.1:{address[1]}.*profile --serve"):
        time_link(address, time_messages(rounds=1, trips=1))


@pytest.mark.parametrize(
    ("text", "address"), [("10.0.0.5", ("10.0.0.5", 7077)), ("board.local:90", ("board.local", 90))]
)
def test_an_address_may_have_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, "--peer") == address


@pytest.mark.parametrize("text", ["", ":90", "here:", "here:http", "here:70000"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--peer is .* it must be an address"):
        parse_address(text, "--peer")


def test_storage_is_read_from_a_file_that_is_gone_afterwards(tmp_path: Path) -> None:
    found = storage.storage_Bps(tmp_path, 2**20)
    assert (found is None) == storage.in_memory(tmp_path)
    assert found is None or found.value > 0
    assert not list(tmp_path.iterdir())


def test_files_in_memory_are_no_storage() -> None:
    assert storage.in_memory(Path("/dev/shm")) and storage.storage_Bps(Path("/dev/shm")) is None


def test_a_file_for_other_engines_is_a_model_that_we_read(tmp_path: Path) -> None:
    shape = TINY.plain_in("q4_1", "float32")
    drawn = np.random.default_rng(1)

    def content(name: str, form: str, rows: int, columns: int) -> bytes:
        return bytes(quantise(form, drawn.standard_normal((rows, columns), np.float32)))

    file = write_llama(tmp_path / "model.gguf", shape, content)
    read = read_shape(file)
    assert (read.layers, read.width, read.heads, read.kv_heads) == (shape.layers, 64, 4, 2)
    assert read.weights == shape.weights
    decoder = Headroom(read, StoredWeights(require_model(file), read), 8)
    decoder.fill(8)
    decoder.token(8)
    decoder.close()


def test_a_tensor_of_another_size_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"token_embd.weight has 3 bytes"):
        write_llama(tmp_path / "model.gguf", TINY.plain, lambda *_: b"abc")


def test_an_engine_that_is_not_installed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    assert run(["profile", "--engine", "llama.cpp"]) == 3
    assert "llama-cpp-python is not installed: `script/setup bench`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--threads", "2"], "--threads is 2, but the engine headroom computes in one thread"),
        (["--storage", "/no/such"], "--storage is /no/such, which is no folder"),
        (["--serve", "here:0"], "--serve is 'here:0', but it must be an address"),
    ],
)
def test_wrong_options_are_one_sentence(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_without_a_peer_there_is_no_link(tiny_profile: Profile) -> None:
    assert link_entry(tiny_profile) is None
