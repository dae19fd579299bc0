"""Tables of published measurements are read as people write them; a file that is none is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import ConfigError
from testbed.placement.blocks import blocks_of
from testbed.validation import names
from testbed.validation.names import GIB, Board
from testbed.validation.table import BUNDLED, COLUMNS, Row, measurements, read_table


def row(metric: str, value: str, unit: str) -> Row:
    return Row(2, "source", "where", "Llama 2 7B", "Q40", "2 x Raspberry Pi 5 8GB", "1 GbE", metric, value, unit, "")


@pytest.mark.parametrize(
    ("metric", "value", "unit", "expected"),
    [
        ("token time", "441.09", "ms/token", [("token", 441.09, None)]),
        ("Avg generation time", "1,312.5", "milliseconds per token", [("token", 1312.5, None)]),
        ("inference time of root", "257.78", "ms", [("compute", 257.78, None)]),
        ("compute+memory time", "99.6 ± 0.3", "ms/token", [("compute", 99.6, None)]),
        ("network sync time", "20.0", "ms/token", [("network", 20.0, None)]),
        ("decode throughput", "~8.36", "tok / sec", [("token", 8.36, None)]),
        ("sent by root / received by root", "590/522", "kB/token", [("sent", 590.0, None), ("received", 522.0, None)]),
        ("network transfer", "544", "kB/token", [("transfer", 544.0, None)]),
        ("prompt / eval throughput", "45/9", "tokens/s", [("prompt", 45.0, None), ("token", 9.0, None)]),
        (
            "decode, nthreads 2 / 3 / 4 (clean room)",
            "5.36/7.20/8.36",
            "tokens/s",
            [("token", 5.36, 2), ("token", 7.2, 3), ("token", 8.36, 4)],
        ),
        ("fits", "no", "bool", [("fits", False, None)]),
        ("token time", "Not enough RAM", "ms/token", [("fits", False, None)]),
        ("time to first token", "900", "ms", [("unknown", 900.0, None)]),
        ("token time", "n/a", "ms/token", [("token", None, None)]),
        ("peak power", "13", "W", [("unknown", 13.0, None)]),
    ],
)
def test_each_value_of_a_cell_is_a_measurement_of_its_kind(
    metric: str, value: str, unit: str, expected: list[tuple[str, object, int | None]]
) -> None:
    found = measurements(row(metric, value, unit))
    assert [(one.kind, one.value, one.threads) for one in found] == expected


@pytest.mark.parametrize(
    ("text", "count", "board"),
    [
        ("1 x Raspberry Pi 5 8GB", 1, Board("raspberry pi 5", 8 * GIB, 4)),
        ("4 x Raspberry Pi 5 16GB, 2.4 GHz, nthreads 4", 4, Board("raspberry pi 5", 16 * GIB, 4)),
        ("2 × RPi 4B 8 GB", 2, Board("raspberry pi 4", 8 * GIB, 4)),
        ("Raspberry Pi 500+ 16GB CPU", 1, Board("raspberry pi 500+", 16 * GIB, 4)),
        ("Raspberry Pi CM5 cluster, 10 x 16GB (9 worked)", 10, Board("raspberry pi cm5", 16 * GIB, 4)),
        ("2 x GCP c3d-highcpu-30 (15 cores, 59 GB)", 2, Board("gcp c3d-highcpu-30", 59 * GIB, 15)),
        ("8 devices", 8, None),
        ("2×Raspberry Pi 5", 2, Board("raspberry pi 5", None, 4)),
        ("2xRPi 4B", 2, Board("raspberry pi 4", None, 4)),
        ("two Raspberry Pi 5", 2, Board("raspberry pi 5", None, 4)),
        ("Raspberry Pi 5 x 4", 4, Board("raspberry pi 5", None, 4)),
        ("Radxa X4", 1, Board("radxa x4")),
        ("raspberrypi 5", 1, Board("raspberry pi 5", None, 4)),
    ],
)
def test_devices_are_a_number_and_a_board(text: str, count: int, board: Board | None) -> None:
    assert names.read_boards(text) == (board,) * count


def test_devices_may_differ_and_the_first_is_the_root() -> None:
    found = names.read_boards("1 x Raspberry Pi 5 8GB + 2 x Raspberry Pi 4B 4GB")
    assert [str(board) for board in found] == ["raspberry pi 5 8GB", "raspberry pi 4 4GB", "raspberry pi 4 4GB"]
    assert names.read_boards("1 x Pi 5 and 1 x Pi 4") == (
        Board("raspberry pi 5", None, 4),
        Board("raspberry pi 4", None, 4),
    )


@pytest.mark.parametrize("number", ["0", "999999", "1000000", "-2", "2.5", "1,000"])
def test_a_number_of_boards_that_is_none_is_no_single_board(number: str) -> None:
    assert names.read_boards(f"{number} x Raspberry Pi 5") == ()


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [("2.5G switch", 2.5e9), ("100 Mb/s", 1e8), ("100BASE-TX", 1e8), ("1000BASE-T", 1e9), ("Gigabit Ethernet", 1e9)],
)
def test_links_are_read_as_people_write_them(text: str, rate_bps: float) -> None:
    wire = names.read_link(text)
    assert wire is not None and wire.rate_bps == rate_bps


@pytest.mark.parametrize("value", ["1e400", "1e-300", "9" * 400, "-5", "0"])
def test_a_number_that_cannot_be_meant_is_none(value: str) -> None:
    (found,) = measurements(row("token time", value, "ms/token"))
    assert found.value is None and found.seconds is None


@pytest.mark.parametrize(
    ("text", "layers", "width"),
    [
        ("Llama 2 70B", 80, 8192),
        ("DeepSeek-R1-Distill-Llama-8B (Llama 3 8B shape)", 32, 4096),
        ("llama3.2:3b", 28, 3072),
        ("Meta Llama 3.3 70B Instruct", 80, 8192),
        ("DeepSeek R1 14B", 48, 5120),
        ("TinyLlama 1.1B", 22, 2048),
        ("Qwen3-8B", 36, 4096),
    ],
)
def test_models_are_known_by_the_names_that_people_use(text: str, layers: int, width: int) -> None:
    shape = names.read_model(text)
    assert shape is not None and (shape.layers, shape.width) == (layers, width) and blocks_of(shape)


def test_models_with_experts_and_unknown_ones_are_not_guessed() -> None:
    assert [names.read_model(text) for text in ("Qwen3-30B-A3B", "Mixtral 8x7B", "Llama 2 700B", "Gemma 2B", "")] == [
        None
    ] * 5


def test_formats_are_those_of_weights_messages_and_caches() -> None:
    formats = names.read_formats("Q40 weights, F32 KV, Q80 exchange")
    assert formats is not None
    assert (formats.weights, formats.bits, formats.exchange_bytes, formats.kv_bytes) == ("q4_0", 4.5, 34 / 32, 4)
    assert names.read_formats("F32 exchange") is not None and names.read_formats("F32 exchange").exchange_bytes == 4  # type: ignore[union-attr]
    named = {
        text: names.read_formats(text) for text in ("Q4_K_M (1.87 GiB)", "not stated (Ollama default)", "f16", "q8_0")
    }
    assert {text: found and found.bits for text, found in named.items()} == {
        "Q4_K_M (1.87 GiB)": 4.85, "not stated (Ollama default)": 4.85, "f16": 16.0, "q8_0": 8.5,
    }  # fmt: skip
    assert names.read_formats("not stated") is None


def test_links_have_a_rate_and_radios_have_none() -> None:
    wires = [
        names.read_link(text)
        for text in ("1 GbE, TP-Link LS1008G switch (star)", "cloud VM network (20 Gbit/s)", "any")
    ]
    assert [wire and wire.rate_bps for wire in wires] == [1e9, 20e9, 1e9]
    assert [names.read_link(text) for text in ("none", "none (llama.cpp RPC build)", "Wi-Fi 5")] == [None] * 3


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["dllama 0.3.1, 16 samples"], "dllama 0.3.1"),
        (["dllama v0.12.2 (#162)"], "dllama 0.12.2"),
        (["all-reduce style scheme (>=0.7)"], "dllama 0.7.1"),
        (["", "Q40", "a report"], "dllama 0.16"),
        (["llamafile 0.6.2"], "llamafile 0.6.2"),
        (["", "not stated (Ollama default)"], "ollama"),
    ],
)
def test_programs_are_named_with_their_version(texts: list[str], name: str) -> None:
    assert str(names.read_program(*texts)) == name


def test_threads_and_contexts_are_found_in_notes() -> None:
    assert names.read_threads("4 x Pi 5 (threads in notes)", "nthreads 3; prompt-independent") == 3
    assert names.read_threads("nthreads 2 / 3 / 4") is None
    assert names.read_context("at context 125 (bin of 250), n=3 prompts") == 125
    assert names.read_context("dllama 0.1.0, 16 samples") == 8 and names.read_context("") is None


def test_the_bundled_table_is_whole() -> None:
    rows = read_table(BUNDLED)
    assert len(rows) == 121 and all(row.source and row.where and row.value for row in rows)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"source,where\na,b\n", "the column 'model' is missing"),
        (b"", "the column 'source' is missing"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"a\0b", "null character"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        read_table(file)
    with pytest.raises(ConfigError, match="no such table"):
        read_table(tmp_path / "other.csv")


def test_a_mark_of_byte_order_other_columns_and_short_lines_are_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("\ufeffextra," + ",".join(COLUMNS) + "\r\n,a,b,Llama 2 7B\r\n\r\n", encoding="utf-8")
    (found,) = read_table(file)
    assert (found.source, found.model, found.value) == ("a", "Llama 2 7B", "")
