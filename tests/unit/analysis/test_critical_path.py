"""The critical path: parts that follow each other without holes, and what leads to what."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.critical_path import Part, block_kind, critical_path


def block(label: str, device: str, start: float, end: float) -> dict[str, Any]:
    return {"kind": "block", "block": label, "device": device, "peer": None, "start_s": start, "end_s": end}


def message(label: str, sender: str, receiver: str, start: float, end: float) -> dict[str, Any]:
    return {"kind": "transfer", "block": label, "device": sender, "peer": receiver, "start_s": start, "end_s": end}


LAYER = [
    block("embed", "a", 0.0, 1.0),
    message("x(0)", "a", "b", 1.1, 3.0),
    block("head(0,0)", "a", 1.0, 2.0),
    block("head(0,1)", "b", 3.0, 6.0),
    message("o(0)", "b", "a", 6.5, 8.0),
    block("proj(0)", "a", 8.0, 9.0),
    block("lm_head", "a", 9.0, 10.0),
]


def told(parts: list[Part]) -> list[tuple[str, float, float]]:
    return [(part.span["block"] if part.span else "gap", part.start_s, part.end_s) for part in parts]


def test_the_path_goes_through_what_was_waited_for() -> None:
    assert told(critical_path(LAYER, 0.0, 10.5)) == [
        ("embed", 0.0, 1.0), ("gap", 1.0, 1.1), ("x(0)", 1.1, 3.0), ("head(0,1)", 3.0, 6.0), ("gap", 6.0, 6.5),
        ("o(0)", 6.5, 8.0), ("proj(0)", 8.0, 9.0), ("lm_head", 9.0, 10.0), ("gap", 10.0, 10.5),
    ]  # fmt: skip


def test_an_operation_on_a_busy_device_waits_for_the_one_before_it() -> None:
    late = [span if span["block"] != "head(0,0)" else block("head(0,0)", "a", 1.0, 8.5) for span in LAYER]
    late = [span if span["block"] != "proj(0)" else block("proj(0)", "a", 8.5, 9.0) for span in late]
    assert [name for name, _, _ in told(critical_path(late, 0.0, 10.0))] == ["embed", "head(0,0)", "proj(0)", "lm_head"]


def test_a_message_of_another_kind_holds_nothing_up() -> None:
    spans = [*LAYER, message("x(1)", "b", "a", 1.0, 7.9)]
    assert told(critical_path(spans, 0.0, 10.0)) == told(critical_path(LAYER, 0.0, 10.0))


def test_a_token_with_a_divided_lm_head_ends_with_the_last_choice() -> None:
    spans = [
        *LAYER[:-1],
        message("v(1)", "a", "b", 9.2, 10.0),
        block("vocab(1)", "b", 10.0, 11.0),
        message("c(1)", "b", "a", 11.0, 12.0),
    ]
    assert [name for name, _, _ in told(critical_path(spans, 0.0, 12.5))][-5:] == [
        "gap", "v(1)", "vocab(1)", "c(1)", "gap",
    ]  # fmt: skip


def test_a_token_without_spans_is_one_gap() -> None:
    assert critical_path([], 2.0, 3.0) == [Part("gap", "", 2.0, 3.0, None)]


def test_a_label_tells_the_kind() -> None:
    labels = ("head(3,0,1)", "sum(2,attn)", "lm_head", "x(4)", None)
    assert [block_kind(label) for label in labels] == ["head", "sum", "lm_head", "x", ""]


SPANS = st.builds(
    lambda kind, label, device, peer, start, length: (
        block(label, device, start, start + length)
        if kind == "block"
        else message(label, device, peer, start, start + length)
    ),
    st.sampled_from(["block", "transfer"]),
    st.sampled_from(["embed", "head(0,0)", "proj(0)", "ffn(0)", "x(0)", "o(0)", "y(0)", "v(1)", "c(1)"]),
    st.sampled_from("abc"),
    st.sampled_from("abc"),
    st.floats(-1, 10),
    st.floats(0, 3),
)


@given(st.lists(SPANS, max_size=30))
def test_the_parts_follow_each_other_without_holes_whatever_the_spans_say(spans: list[dict[str, Any]]) -> None:
    parts = critical_path(spans, 0.0, 8.0)
    assert parts[0].start_s == 0.0 and parts[-1].end_s == 8.0
    assert all(one.end_s == following.start_s for one, following in itertools.pairwise(parts))
    assert all(part.seconds >= 0 for part in parts)
