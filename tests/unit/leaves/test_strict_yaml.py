"""YAML: what a document means, and that no document is a bomb."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal

from testbed.errors import ConfigError
from testbed.strict_yaml import DEEPEST, LARGEST_YAML, parse_yaml, read_mapping

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
BOMBS = {
    "billion laughs": (LAUGHS, "aliases stand for"),
    "merge keys that double": (MERGES, "aliases stand for"),
    "a list in itself": ("&a [*a]", "in itself"),
    "a mapping in itself": ("&a {b: *a}", "in itself"),
    "a mapping merged into itself": ("&a {<<: *a}", "in itself"),
    "lists in lists": ("[" * 50_000, "levels deep"),
    "closed lists in lists": ("[" * 500 + "]" * 500, "levels deep"),
    "mappings in mappings": ("{a: " * 300 + "1" + "}" * 300, "levels deep"),
    "nested aliases": ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100)), "levels deep"),
    "a number that is none": ("a: !!int x", "'x' is tagged !!int"),
    "an empty number": ('a: !!int ""', "'' is tagged !!int"),
    "a float that is none": ("a: !!float x", "tagged !!float"),
    "a truth that is none": ("a: !!bool perhaps", "tagged !!bool"),
    "a list as number": ("a: !!int [1]", "expected a scalar"),
    "an object": ("a: !!python/object/apply:os.system [true]", "!!python/object/apply:os.system"),
    "bytes": ("a: !!binary aGVsbG8=", "!!binary"),
    "a set": ("a: !!set {x}", "!!set"),
    "a date by tag": ("a: !!timestamp 2024-01-01", "!!timestamp"),
    "a tag of its own": ("a: !mine x", "!mine"),
    "thousands of digits": ("a: " + "9" * 5000, "no number"),
    "more than 64 bits": (f"a: {2**63}", "no number"),
    "hexadecimal digits": ("a: 0x" + "f" * 200_000, "no number"),
    "a number of sixties": ("a: 1" + ":10" * 100_000, "no number"),
    "digits and no end": ("a: " + "1" * 200_000 + "x", None),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "a key twice": ("a: 1\na: 2", "'a' appears twice"),
    "a list as key": ("? [a]\n: b", "unhashable"),
    "half a character": ("a: \udc80", "not YAML"),
    "a zero byte": ("a: \x00", "not"),
    "too much": ("#" * (LARGEST_YAML + 1), "at most"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_sentence_within_a_second(name: str) -> None:
    text, expected = BOMBS[name]
    started = time.process_time()
    if expected is None:
        parse_yaml(text, "it")
    else:
        assert len(refusal(lambda: parse_yaml(text, "it"), expected, begin="it")) < 300
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{a: 2024-01-01, b: 60e6, c: 1., d: !!str 5, e: !!int 7, f: =}",
         {"a": "2024-01-01", "b": 60e6, "c": 1.0, "d": "5", "e": 7, "f": "="}),
        ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: {<<: [*x], r: *x}",
         {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}, "c": {"p": 1, "q": 2, "r": {"p": 1, "q": 2}}}),
        ("z: &z {x: 1}\na: {deep: &b {x: 2, <<: *z}}\nc: {<<: *b}",
         {"z": {"x": 1}, "a": {"deep": {"x": 2}}, "c": {"x": 2}}),
        (f"a: {2**63 - 1}", {"a": 2**63 - 1}),
        ("[" * DEEPEST + "]" * DEEPEST, None),
        ("", None),
    ],
)  # fmt: skip
def test_plain_values_anchors_and_merge_keys_are_read(text: str, value: Any) -> None:
    found = parse_yaml(text, "it")
    assert value is None or found == value


def test_a_large_file_is_read_where_it_is_json(tmp_path: Path) -> None:
    whole = {"rows": [[number, "x" * 20] for number in range(50_000)]}
    large = tmp_path / "large.yaml"
    large.write_text(json.dumps(whole))
    assert read_mapping(large) == whole
    large.write_text("a: 1\n" + "#" * LARGEST_YAML)
    with pytest.raises(ConfigError, match="not JSON"):
        read_mapping(large)


@given(st.text(max_size=60))
def test_any_text_is_yaml_or_one_sentence(text: str) -> None:
    try:
        parse_yaml(text, "file.yaml")
    except ConfigError as error:
        assert str(error).startswith("file.yaml") and "\n" not in str(error)


@pytest.mark.parametrize(("text", "value"), [("60e6", 60e6), ("1E-3", 1e-3), ("-.5e2", -50.0), ("6.0e+7", 6e7)])
def test_a_number_with_an_exponent_is_a_number(text: str, value: float) -> None:
    parsed = parse_yaml(f"least: {text}", "x")["least"]
    assert isinstance(parsed, float) and parsed == value


def test_what_only_looks_like_an_exponent_stays_text() -> None:
    assert parse_yaml("[e6, 1e, 60e6 bit/s, 1e2e3]", "x") == ["e6", "1e", "60e6 bit/s", "1e2e3"]


def test_a_date_stays_text() -> None:
    assert parse_yaml("day: 2024-01-01", "x") == {"day": "2024-01-01"}
