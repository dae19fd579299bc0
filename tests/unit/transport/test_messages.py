"""Control messages: every command and event survives the wire as it was, plans inside commits included."""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import testbed.transport
from testbed.placement.plan import HalfPlan, LayerPlan, Plan
from testbed.transport import messages
from testbed.transport.data import Activation, Chunk, DataHeader, PingFrame
from testbed.transport.messages import (
    Command,
    Commit,
    Decode,
    Event,
    Hello,
    Token,
    decode_command,
    decode_event,
    encode,
)

COMMANDS, EVENTS = get_args(Command), get_args(Event)

names = st.text(min_size=1, max_size=8)
groups = st.lists(st.integers(0, 40), min_size=1, max_size=4).map(lambda found: tuple(sorted(set(found))))
halves = st.builds(
    HalfPlan,
    work=st.dictionaries(names, groups, max_size=3),
    target=names,
    x_order=st.lists(names, max_size=3).map(tuple),
)
layers = st.builds(LayerPlan, attention=halves, ffn=halves)
plans = st.builds(
    Plan,
    epoch=st.integers(0, 2**40),
    source=names,
    layers=st.lists(layers, max_size=3).map(tuple),
    vocab=st.none() | halves,
)
numbers = st.floats(allow_nan=False, allow_infinity=False)


def any_of(kinds: tuple[type, ...]) -> st.SearchStrategy[Any]:
    st.register_type_strategy(Plan, plans)
    st.register_type_strategy(float, numbers)
    st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))
    return st.sampled_from(kinds).flatmap(st.from_type)


@given(any_of(COMMANDS))
def test_every_command_arrives_as_it_was_sent(command: Any) -> None:
    assert decode_command(encode(command)) == command
    assert type(decode_command(encode(command))) is type(command)


@given(any_of(EVENTS))
def test_every_event_arrives_as_it_was_sent(event: Any) -> None:
    assert decode_event(encode(event)) == event
    assert type(decode_event(encode(event))) is type(event)


@given(plans)
def test_a_plan_inside_a_commit_keeps_its_order_and_its_tuples(plan: Plan) -> None:
    found = decode_command(encode(Commit(plan, ["head(0,1)"])))
    assert isinstance(found, Commit) and found.plan == plan
    for one, other in zip(found.plan.layers, plan.layers, strict=True):
        for there, here in ((one.attention, other.attention), (one.ffn, other.ffn)):
            assert list(there.work.items()) == list(here.work.items())  # the order in which proj joins and sends
            assert isinstance(there.x_order, tuple) and all(isinstance(held, tuple) for held in there.work.values())


@given(any_of(get_args(DataHeader)))
def test_every_data_header_arrives_as_it_was_sent(header: Any) -> None:
    assert msgspec.msgpack.Decoder(DataHeader).decode(msgspec.msgpack.encode(header)) == header


def test_every_message_of_the_module_is_either_a_command_or_an_event() -> None:
    """One that is in neither union could be sent and would be refused at the other end."""
    defined = {
        kind for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, messages.Message) and kind is not messages.Message
    }  # fmt: skip
    assert defined == {*COMMANDS, *EVENTS}
    assert not set(COMMANDS) & set(EVENTS)
    assert isinstance(Command, UnionType)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", encode(Hello(1, "tcp://x")), encode(Decode(3))[:-1], msgspec.msgpack.encode({"type": "Decode"})],
)
def test_what_is_not_a_command_is_refused_and_never_guessed(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_command(body)


def test_times_keep_every_bit() -> None:
    start = math.nextafter(123456.789, math.inf)
    event = decode_event(encode(Token(0, 1, "", 0, start, start, 1e-9, 0.1)))
    assert isinstance(event, Token) and (event.start_s, event.compute_s) == (start, 1e-9)


def test_the_transport_never_pickles() -> None:
    folder = Path(testbed.transport.__file__).parent
    files = sorted(folder.glob("*.py"))
    assert len(files) > 3
    for file in files:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "cloudpickle", "dill", "marshal", "shelve"} & {m.split(".")[0] for m in modules}
            if isinstance(node, ast.Attribute):
                assert not node.attr.endswith("pyobj"), f"{file.name}: {node.attr} pickles"


def test_headers_are_read_without_loading_torch() -> None:
    """The room carries bytes; a controller that only talks should not pay for a tensor library."""
    import subprocess

    code = "import sys, testbed.transport.control, testbed.transport.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {Activation, Chunk, PingFrame} <= set(get_args(DataHeader))
