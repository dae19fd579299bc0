"""The columns of a run's tables: name, type, unit and meaning.

This is the only definition of the columns. The writer checks rows against it, and the reader gives its DataFrames these
types. Times `*_s` are emulated seconds since token 0, and `wall_s` is Unix time. A column that is added later must not
be required, so that older run folders still load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Dtype = Literal["int", "float", "str", "bool"]


@dataclass(frozen=True)
class Column:
    """One column; a row may leave out a column that is not required, which is then null."""

    name: str
    dtype: Dtype
    unit: str  # "" if it has none
    meaning: str
    required: bool = True
    choices: tuple[str, ...] = ()  # the allowed values of a str column; () means any


def _integer(name: str, meaning: str, unit: str = "", required: bool = True) -> Column:
    return Column(name, "int", unit, meaning, required)


def _bytes(name: str, meaning: str, required: bool = True) -> Column:
    return Column(name, "int", "bytes", meaning, required)


def _seconds(name: str, meaning: str, required: bool = True) -> Column:
    return Column(name, "float", "s", meaning, required)


def _rate(name: str, meaning: str, required: bool = True) -> Column:
    return Column(name, "float", "bit/s", meaning, required)


def _share(name: str, meaning: str, required: bool = True) -> Column:
    return Column(name, "float", "share", meaning, required)


def _text(name: str, meaning: str, required: bool = True, choices: tuple[str, ...] = ()) -> Column:
    return Column(name, "str", "", meaning, required, choices)


def _flag(name: str, meaning: str, required: bool = True) -> Column:
    return Column(name, "bool", "", meaning, required)


COMMITTED = "committed"
ABORTED = "aborted"

_STEP = _integer("step", "token's number; 0 comes out of the prefill")
_WALL = _seconds("wall_s", "Unix time at which the row was written", required=False)

TABLES: dict[str, tuple[Column, ...]] = {
    "tokens": (
        _STEP,
        _integer("token_id", "id of the generated token; null in a simulation", required=False),
        _integer("epoch", "placement under which it was generated"),
        _flag("prefill", "true for token 0, whose latency is the time to first token"),
        _seconds("start_s", "when its generation began"),
        _seconds("latency_s", "from there to the token's id; migrations before it are not in it"),
        _seconds("predicted_s", "the cost model's latency", required=False),
        _seconds("compute_s", "of it on devices' critical path", required=False),
        _seconds("transfer_s", "of it on links' critical path", required=False),
        _seconds("software_s", "the rest: messaging and scheduling overhead", required=False),
        _bytes("wire_bytes", "bytes on all links for this token, headers included", required=False),
        _text("logits_digest", "digest of the logits' bytes", required=False),
        _WALL,
    ),
    "spans": (
        _STEP,
        _integer("layer", "layer; null for embedding and LM head", required=False),
        _text("kind", "what occupied the device or the path", choices=("block", "transfer")),
        _text("block", "block computed, or sent from", required=False),
        _text("device", "where it ran, or the sender"),
        _text("peer", "the receiver of a transfer", required=False),
        _seconds("start_s", "begin"),
        _seconds("end_s", "end"),
        _bytes("bytes", "read from memory by a block, or on the wire for a transfer", required=False),
        Column("flops", "float", "FLOP", "operations of a block", required=False),
        _flag("overrun", "the host could not finish in the emulated time", required=False),
        _seconds("due_s", "how long the device model says a block takes", required=False),
        _WALL,
    ),
    "decisions": (
        _integer("epoch", "placement in force after the decision"),
        _integer("step", "tokens done at the boundary"),
        _text("policy", "who decided"),
        _seconds("decision_s", "time the policy took (host time; pauses decode and the trace clock)"),
        _integer("moved", "blocks that the policy wanted elsewhere"),
        _seconds("predicted_before_s", "token latency predicted for the old placement", required=False),
        _seconds("predicted_after_s", "token latency predicted for the new one", required=False),
        _flag("feasible", "a placement that fits was found"),
        _text("reason", "why not, or why blocks moved", required=False),
        _seconds("stall_s", "decode time lost to carrying it out, migrations and commit", required=False),
        _seconds("bound_s", "the least that the interval can cost without the LM head, if proved", required=False),
        _share("gap", "how much more than the bound the decision costs", required=False),
        _flag("proved", "whether the policy proved its decision to be the optimum", required=False),
        _seconds("t_s", "when", required=False),
        _WALL,
    ),
    "migrations": (
        _integer("epoch", "epoch that this migration was to begin"),
        _text("block", "block that moved"),
        _text("src", "device it left"),
        _text("dst", "device it went to"),
        _bytes("bytes", "payload sent"),
        _seconds("start_s", "when its transfer was ordered"),
        _seconds("first_byte_s", "first payload byte at the receiver", required=False),
        _seconds("last_byte_s", "last payload byte at the receiver", required=False),
        _seconds("predicted_s", "the cost model's migration delay", required=False),
        _text("outcome", "how it ended", choices=(COMMITTED, ABORTED)),
        _bytes("weights_bytes_loaded", "weights read from the receiver's own storage", required=False),
        _WALL,
    ),
    "devices": (
        _seconds("t_s", "when"),
        _text("device", "device"),
        _bytes("budget_bytes", "what weights and KV caches may use now", required=False),
        _bytes("ledger_bytes", "what they use: anonymous memory less the warm baseline", required=False),
        _bytes("predicted_bytes", "what the blocks there should use", required=False),
        _bytes("limit_bytes", "memory limit of the device's cgroup", required=False),
        _bytes("ballast_bytes", "held by the emulated co-located process", required=False),
        _seconds("runqueue_wait_s", "time ready to run but waiting for a core, so far", required=False),
        _bytes("rss_bytes", "resident set of the worker process", required=False),
        _flag("alive", "the worker runs"),
        _WALL,
    ),
    "links": (
        _seconds("t_s", "when the sample was taken or the change was made"),
        _text("device", "name of the link: the device whose own link it is, or as the topology says"),
        _text("direction", "up: from the device, or from the link's first end; down: to it", choices=("up", "down")),
        _rate("requested_bps", "what the trace or topology asks for"),
        _rate("applied_bps", "what was sent to the kernel", required=False),
        _rate("readback_bps", "what the kernel says is in force", required=False),
        _seconds("delay_s", "one-way delay in this direction", required=False),
        _seconds("lag_s", "from the time the change was due until it was in force", required=False),
        _bytes("sent_bytes", "bytes that left the queue so far", required=False),
        _integer("dropped", "packets dropped so far", "packets", required=False),
        _bytes("backlog", "bytes waiting in the queue", required=False),
        _WALL,
    ),
    "host": (
        _seconds("t_s", "when the interval was over"),
        _integer("first_step", "first token of the interval"),
        _integer("last_step", "its last token"),
        _seconds("span_s", "how long it took, the decision before it and its migrations included"),
        _integer("cores", "cores of the host that the run may use", "cores"),
        _share("own_share", "part of their time that the run's own processes used"),
        _share("others_share", "part that other processes or other virtual machines used"),
        _share("idle_share", "part that nobody used; the rest went to interrupts"),
        _share("pressure_share", "part of the interval in which some process waited for a core (PSI)", required=False),
        Column("load", "float", "processes", "load average of the last minute", required=False),
        _WALL,
    ),
    "placements": (
        _integer("epoch", "epoch that begins"),
        _integer("step", "first token generated under it"),
        _text("block", "block"),
        _text("device", "device that owns it"),
        _WALL,
    ),
    "waits": (
        _text("device", "which"),
        _integer("first", "first token of the interval"),
        _integer("last", "last token of the interval"),
        _seconds("wait_s", "how long its worker waited meanwhile for a core of the host"),
        _seconds("span_s", "how long the interval took"),
        _WALL,
    ),
    "rates": (
        _seconds("t_s", "when the transfer began"),
        _text("device", "the receiver for `down`, else the sender"),
        _text("direction", "which side limits it; path: both", choices=("up", "down", "path")),
        _text("peer", "the other end", required=False),
        _rate("requested_bps", "link rate asked for during the transfer"),
        _rate("achieved_bps", "payload bits over first to last byte at the receiver"),
        _bytes("bytes", "payload bytes", required=False),
        _text("how", "what was timed", choices=("probe", "migration")),
        _WALL,
    ),
}

_PYTHON_TYPES: dict[Dtype, Any] = {"int": int, "float": float, "str": str, "bool": bool}


def row_type(table: str) -> type[msgspec.Struct]:
    """A struct type that accepts exactly the table's rows; null columns are left out when encoded."""
    required, optional = [], []
    for column in TABLES[table]:
        kind: Any = Literal[column.choices] if column.choices else _PYTHON_TYPES[column.dtype]
        if column.required:
            required.append((column.name, kind))
        else:
            optional.append((column.name, kind | None, None))
    return msgspec.defstruct(
        f"{table}_row", [*required, *optional], forbid_unknown_fields=True, omit_defaults=True, kw_only=True
    )
