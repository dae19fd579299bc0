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

_STEP = _integer("step", "number of the token; the prefill produces token 0")
_WALL = _seconds("wall_s", "Unix time at which the row was written", required=False)

TABLES: dict[str, tuple[Column, ...]] = {
    "tokens": (
        _STEP,
        _integer("token_id", "id of the generated token; null in a simulation", required=False),
        _integer("epoch", "epoch of the placement that generated the token"),
        _flag("prefill", "true for token 0, whose latency is the time to first token"),
        _seconds("start_s", "start of its generation"),
        _seconds("latency_s", "time from the start to the token's id, without migrations before it"),
        _seconds("predicted_s", "latency that the cost model predicts", required=False),
        _seconds("compute_s", "part of the latency that devices compute, on the critical path", required=False),
        _seconds("transfer_s", "part of the latency that links need, on the critical path", required=False),
        _seconds("software_s", "the rest of the latency: messaging and scheduling", required=False),
        _bytes("wire_bytes", "bytes on all links for this token, with headers", required=False),
        _text("logits_digest", "digest of the bytes of the logits", required=False),
        _WALL,
    ),
    "spans": (
        _STEP,
        _integer("layer", "layer; null for the embedding and the LM head", required=False),
        _text("kind", "what used the device or the path", choices=("block", "transfer")),
        _text("block", "block that was computed, or that sent", required=False),
        _text("device", "device that computed or sent"),
        _text("peer", "receiver of a transfer", required=False),
        _seconds("start_s", "start"),
        _seconds("end_s", "end"),
        _bytes("bytes", "bytes that a block reads from memory, or a transfer's bytes on the wire", required=False),
        Column("flops", "float", "FLOP", "operations of a block", required=False),
        _flag("overrun", "true if the host was slower than the emulated device", required=False),
        _seconds("due_s", "time that the block takes on the emulated device", required=False),
        _WALL,
    ),
    "decisions": (
        _integer("epoch", "epoch of the placement after the decision"),
        _integer("step", "number of tokens generated before the decision"),
        _text("policy", "policy that decided"),
        _seconds("decision_s", "host time of the policy; decode and the trace clock pause meanwhile"),
        _integer("moved", "number of blocks that the policy moves"),
        _seconds("predicted_before_s", "predicted token latency of the old placement", required=False),
        _seconds("predicted_after_s", "predicted token latency of the new placement", required=False),
        _flag("feasible", "true if a placement that fits was found"),
        _text("reason", "reason why none was found, or why blocks move", required=False),
        _seconds("stall_s", "decode time lost to the migrations and the commit", required=False),
        _seconds(
            "gain_s",
            "gain of a move over the rest of the run under the true conditions; below 0: a wrong move",
            required=False,
        ),
        _seconds("bound_s", "proved lower bound of the interval's cost without the LM head", required=False),
        _share("gap", "cost of the decision over the bound, minus one", required=False),
        _flag("proved", "true if the policy proved that its decision is the optimum", required=False),
        _seconds("t_s", "time of the decision", required=False),
        _WALL,
    ),
    "migrations": (
        _integer("epoch", "epoch that the migration prepares"),
        _text("block", "block that moves"),
        _text("src", "device that had the block; after a loss, the one that its cache comes from, if any"),
        _text("dst", "device that gets the block"),
        _bytes("bytes", "payload bytes sent"),
        _seconds("start_s", "time at which the transfer was ordered"),
        _seconds("first_byte_s", "arrival of the first payload byte", required=False),
        _seconds("last_byte_s", "arrival of the last payload byte", required=False),
        _seconds(
            "predicted_s",
            "migration delay that the cost model predicts; if `live`, the time of copying",
            required=False,
        ),
        _text("outcome", "outcome of the migration", choices=(COMMITTED, ABORTED)),
        _bytes("weights_bytes_loaded", "weights that the receiver reads from its own storage", required=False),
        _flag("live", "true if the block is copied while tokens go on", required=False),
        _WALL,
    ),
    "devices": (
        _seconds("t_s", "time of the measurement"),
        _text("device", "device"),
        _bytes("budget_bytes", "present budget of weights and KV caches", required=False),
        _bytes(
            "ledger_bytes",
            "measured: anonymous memory minus the warm baseline; includes blocks, replicas and the worker's own memory",
            required=False,
        ),
        _bytes("predicted_bytes", "bytes that the blocks on the device need; the budget limits these", required=False),
        _bytes("limit_bytes", "memory limit of the device's cgroup", required=False),
        _bytes("ballast_bytes", "memory of the ballast, the emulated co-located process", required=False),
        _seconds(
            "runqueue_wait_s",
            "time so far for which the worker waited for a core and pacing could not make up for it",
            required=False,
        ),
        _bytes("rss_bytes", "resident set of the worker process", required=False),
        _flag("alive", "true if the worker runs"),
        _WALL,
    ),
    "links": (
        _seconds("t_s", "time of the measurement or of the change"),
        _text("device", "name of the link, which is the device for a device's own link"),
        _text("direction", "up: from the device, or from the link's first end; down: to it", choices=("up", "down")),
        _rate("requested_bps", "rate that the trace or the topology asks for"),
        _rate("applied_bps", "rate that was sent to the kernel", required=False),
        _rate("readback_bps", "rate that was read back from the kernel", required=False),
        _seconds("delay_s", "one-way delay in this direction", required=False),
        _seconds("lag_s", "time from when the change was due until it was made", required=False),
        _bytes("sent_bytes", "total bytes that left the queue", required=False),
        _integer("dropped", "total packets dropped", "packets", required=False),
        _bytes("backlog", "bytes in the queue", required=False),
        _WALL,
    ),
    "host": (
        _seconds("t_s", "end of the interval"),
        _integer("first_step", "first token of the interval"),
        _integer("last_step", "last token of the interval"),
        _seconds("span_s", "duration of the interval, with its decision and migrations"),
        _integer("cores", "cores of the host that the run may use", "cores"),
        _share("own_share", "share of the cores' time that the run's processes used"),
        _share("others_share", "share that other processes or virtual machines used"),
        _share("idle_share", "share that was idle; the rest went to interrupts"),
        _share("pressure_share", "share of the interval in which some process waited for a core (PSI)", required=False),
        Column("load", "float", "processes", "load average of the last minute", required=False),
        _WALL,
    ),
    "placements": (
        _integer("epoch", "epoch of the placement"),
        _integer("step", "first token of the epoch"),
        _text("block", "block"),
        _text("device", "device that has the block"),
        _WALL,
    ),
    "waits": (
        _text("device", "device"),
        _integer("first", "first token of the interval"),
        _integer("last", "last token of the interval"),
        _seconds("wait_s", "time for which its worker waited for a core and pacing could not make up for it"),
        _seconds("span_s", "duration of the interval"),
        _WALL,
    ),
    "rates": (
        _seconds("t_s", "start of the transfer"),
        _text("device", "receiver for `down`, else the sender"),
        _text("direction", "side that limits the transfer; path: both", choices=("up", "down", "path")),
        _text("peer", "other end of the transfer", required=False),
        _rate("requested_bps", "requested rate of the link during the transfer"),
        _rate("achieved_bps", "payload bits over the time from first to last byte at the receiver"),
        _bytes("bytes", "payload bytes", required=False),
        _text("how", "kind of transfer", choices=("probe", "migration")),
        _WALL,
    ),
    "estimates": (
        _integer("step", "number of tokens generated before the decision"),
        _seconds("t_s", "time of the estimate"),
        _text("target", "link or device, as traces name it: `link/b`, `device/b`"),
        _text(
            "quantity",
            "what is estimated",
            choices=("memory", "streaming", "compute", "up", "down", "up_delay", "down_delay"),
        ),
        Column("estimate", "float", "SI", "estimate that the policy is shown, in the unit of the quantity"),
        Column("truth", "float", "SI", "true value in the interval before; of memory, the present one"),
        _seconds("age_s", "time since the quantity was last seen"),
        _share("spread", "uncertainty of the estimate"),
        _flag("used", "true if the interval before used the link, or had samples of the device"),
        _WALL,
    ),
    "delays": (
        _text("device", "name of the link, which is the device for a device's own link"),
        _text("direction", "up: from the device, or from the link's first end; down: to it", choices=("up", "down")),
        _seconds("asked_s", "one-way delay that was asked for; each has a row of its own, as have jitters and losses"),
        _seconds(
            "farthest_s",
            "delay of the link itself in the quarter of the run in which it was farthest from that",
            required=False,
        ),
        _seconds("p10_s", "delay of the link itself that a tenth of its messages stayed below", required=False),
        _seconds("p50_s", "delay of the link itself: the median message", required=False),
        _seconds("p90_s", "delay of the link itself that nine tenths of its messages stayed below", required=False),
        _integer("messages", "messages that waited for nothing, of the path that shows the link best"),
        _seconds("asked_jitter_s", "jitter that was asked for"),
        _seconds(
            "jitter_s",
            "jitter that explains the spread of messages, of the path that spreads them least",
            required=False,
        ),
        _share("asked_loss", "loss that was asked for"),
        _integer("frames", "frames that reached a queue that is asked to lose some", required=False),
        _integer("lost", "frames that it lost", required=False),
        _flag("loss_as_asked", "false if so few or so many are lost by chance once in 100 000 runs", required=False),
        _WALL,
    ),
    "faults": (
        _seconds("t_s", "time at which the loss was noticed"),
        _text("device", "device that was lost"),
        _integer("step", "number of tokens generated before"),
        _text(
            "cause",
            "exit: its worker ended; hung: it made no progress; oom: the kernel killed it for lack of memory; "
            "late: no loss, but messages of a lost device that were dropped",
            choices=("exit", "hung", "oom", "late"),
        ),
        _integer("exit_code", "exit code of the worker; the number of a signal is negative", required=False),
        _seconds("killed_s", "time at which a trace killed it", required=False),
        _flag("recovering", "true if the run tried to go on without it"),
        _integer("messages", "late messages that were dropped", required=False),
        _WALL,
    ),
    "recoveries": (
        _integer("epoch", "epoch of the placement on the surviving devices"),
        _integer("step", "token that was repeated"),
        _text("devices", "all devices that were lost by then, separated by commas"),
        _seconds("noticed_s", "time at which the loss was noticed"),
        _seconds("decided_s", "time at which the policy had decided"),
        _seconds("committed_s", "time at which all surviving devices had the new placement"),
        _seconds("rebuilt_s", "time at which all KV caches were complete again"),
        _seconds("token_s", "time of the first token after it; null if none came", required=False),
        _seconds("predicted_s", "predicted time from the commit to complete KV caches"),
        _integer("blocks", "blocks that devices loaded from their storage"),
        _bytes("loaded_bytes", "weights of those blocks"),
        _integer("rows", "positions whose keys and values were recomputed", "rows"),
        _integer(
            "kept_rows", "positions that all KV caches already had, including replicas and rows that travelled", "rows"
        ),
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
