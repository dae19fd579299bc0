"""A made-up run folder for the tests of figures, written through `RunLog`.

It has four devices, the 12 x 12 heads of GPT-2 in whole layers, and 96 tokens. The link of b collapses at token 40, and
a decrease of c's memory is announced at token 48. `resource-aware` moves blocks at both. `static` moves none and is
OOM-killed at token 48.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from testbed.runlog.folder import COMMITTED, RunLog
from testbed.runlog.summary import summarise

MIB = 2**20
LAYERS, HEADS, INTERVAL = 12, 12, 8
DEVICES = ("a", "b", "c", "d")
BUDGET = {"a": 200 * MIB, "b": 128 * MIB, "c": 128 * MIB, "d": 176 * MIB}
RATE = {"a": 100e6, "b": 100e6, "c": 50e6, "d": 200e6}
SIZE = {"head": 591_360, "proj": 2_362_368, "ffn": 18_887_680}
EMBED = 157_544_448
RESERVE = 24 * MIB
KV_PER_HEAD = 512  # bytes per token
COLLAPSE_AT, COLLAPSED = 40, 10e6
SQUEEZE_AT, SQUEEZED = 48, 72 * MIB


def first_placement() -> dict[str, str]:
    """Whole layers: 1 on a, 4 on b, 4 on c, 3 on d."""
    where = {}
    for layer in range(LAYERS):
        device = "abbbbccccddd"[layer]
        where |= {f"head({layer},{head})": device for head in range(HEADS)}
        where |= {f"proj({layer})": device, f"ffn({layer})": device}
    return where


def size_of(block: str, length: int) -> int:
    kind = block.split("(")[0]
    return SIZE[kind] + (KV_PER_HEAD * length if kind == "head" else 0)


def make_run(
    parent: Path, policy: str = "resource-aware", seed: int = 1, tokens: int = 96, finished: bool = True
) -> Path:
    """Write one run and return its folder; `finished=False` leaves it as a killed controller would."""
    return _Story(RunLog.create(parent, "quickstart", policy), policy, seed, tokens).tell(finished)


class _Story:
    """The events of the run in their order."""

    def __init__(self, log: RunLog, policy: str, seed: int, tokens: int) -> None:
        self.log, self.policy, self.tokens = log, policy, tokens
        self.seed, self.random = seed, random.Random(f"{policy} {seed}")
        self.where = first_placement()
        self.epoch, self.now = 0, 0.0
        self.rate = {(device, way): RATE[device] for device in DEVICES for way in ("up", "down")}
        self.budget = dict(BUDGET)
        self.ballast = dict.fromkeys(DEVICES, 0)
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("tokens", "migrations", "decisions", "devices", "spans")
        }

    def put(self, table: str, **values: Any) -> None:
        self.log.row(table, **values)
        if table in self.rows:
            self.rows[table].append(values)

    def tell(self, finished: bool) -> Path:
        experiment = {"name": "quickstart", "tokens": self.tokens, "seed": self.seed, "interval": INTERVAL}
        self.log.write_manifest(
            {
                "run": self.log.folder.name,
                "experiment_name": "quickstart",
                "policy": self.policy,
                "backend": "mininet",
                "experiment": experiment,
                "host": {"system": "Linux-6.1.0", "cores": 2},
                "delay": "transport",
            }
        )
        self.probe()
        oom = False
        for step in range(self.tokens):
            if step % INTERVAL == 0 and not self.boundary(step):
                oom = True
                break
            self.token(step)
            if step % 2 == 1:
                self.sample(step)
        if not finished:
            self.log.close()
            return self.log.folder
        figures = summarise(*(self.rows[name] for name in ("tokens", "migrations", "decisions", "devices", "spans")))
        self.log.finish(
            {
                "run": self.log.folder.name,
                "backend": "mininet",
                "policy": self.policy,
                "status": "oom" if oom else "done",
                "tokens": [row["token_id"] for row in self.rows["tokens"]],
                "verified": None,
                **figures,
                "oom_kills": int(oom),
                "verdict": {"ok": True, "reasons": []},
            }
        )
        return self.log.folder

    def probe(self) -> None:
        for device in DEVICES:
            for way in ("up", "down"):
                self.link(device, way)
                self.rated(device, way, "probe", 250_000)

    def link(self, device: str, way: str) -> None:
        rate = self.rate[device, way]
        self.put(
            "links", t_s=self.now, device=device, direction=way, requested_bps=rate, applied_bps=rate,
            readback_bps=8 * int(rate / 8), delay_s=0.0005, lag_s=0.0004,
        )  # fmt: skip

    def rated(self, device: str, way: str, how: str, size: int, peer: str | None = None) -> None:
        asked = self.rate[device, way]
        got = asked * min(0.956, self.random.gauss(0.948, 0.006))
        self.put(
            "rates", t_s=self.now, device=device, direction=way, peer=peer, requested_bps=asked, achieved_bps=got,
            bytes=size, how=how,
        )  # fmt: skip

    def boundary(self, step: int) -> bool:
        """A token boundary: trace changes, decision, migrations, enforcement; False if a device is OOM-killed."""
        if step == COLLAPSE_AT:
            self.rate["b", "up"] = self.rate["b", "down"] = COLLAPSED
            for way in ("up", "down"):
                self.link("b", way)
                self.happened("trace_applied", step, target="link/b", quantity=way, value=COLLAPSED)
        if step == SQUEEZE_AT:
            self.budget["c"] = SQUEEZED
            self.happened("memory_announced", step, target="device/c", quantity="memory", value=SQUEEZED)
        self.sample(step)
        self.put(
            "host", t_s=self.now, first_step=max(0, step - INTERVAL), last_step=step, span_s=1.0, cores=2,
            own_share=0.3, others_share=0.02, idle_share=0.68, pressure_share=None, load=0.6,
        )  # fmt: skip
        moves = self.wanted(step) if self.policy != "static" else []
        before = self.latency(step)
        stall = self.migrate(step, moves) if moves else 0.0
        if step == 0 or moves:
            for block, device in self.where.items():
                self.put("placements", epoch=self.epoch, step=step, block=block, device=device)
        self.put(
            "decisions", epoch=self.epoch, step=step, policy=self.policy,
            decision_s=0.004 + 0.002 * self.random.random(), moved=len(moves), predicted_before_s=before,
            predicted_after_s=self.latency(step), feasible=True, reason="", stall_s=stall,
        )  # fmt: skip
        if step == SQUEEZE_AT:
            self.ballast["c"] = BUDGET["c"] - SQUEEZED
            self.happened("memory_enforced", step, target="device/c", quantity="memory", value=SQUEEZED)
            if self.ledger("c", step) > SQUEEZED:
                self.sample(step)
                self.happened("oom_kill", step, device="c")
                return False
            self.sample(step)
        return True

    def happened(self, kind: str, step: int, **fields: Any) -> None:
        self.log.event(kind, self.now, step=step, **fields)

    def wanted(self, step: int) -> list[tuple[str, str]]:
        if step == COLLAPSE_AT:  # bring two layers of b together with those of d: fewer hops over the slow link
            return [(f"head({layer},{head})", "d") for layer in (4,) for head in range(HEADS)] + [("proj(4)", "d")]
        if step == SQUEEZE_AT:
            freed = [(block, "d") for block in self.where if block.split("(")[1][:1] == "8"]
            freed += [(f"head(7,{head})", "d") for head in range(HEADS)]
            return [*freed, *((f"head(6,{head})", "a") for head in range(4)), ("ffn(7)", "d")]
        if step == 72:
            return [(f"head(6,{head})", "d") for head in range(4)]
        return []

    def migrate(self, step: int, moves: list[tuple[str, str]]) -> float:
        begin, busy = self.now, dict.fromkeys(DEVICES, self.now)
        self.epoch += 1
        for block, target in moves:
            source = self.where[block]
            payload = size_of(block, step + 32) - SIZE[block.split("(")[0]] or 2048
            start = max(busy[source], busy[target])
            took = payload * 8 / (0.95 * min(self.rate[source, "up"], self.rate[target, "down"])) + 0.002
            busy[source] = busy[target] = start + took
            loaded = size_of(block, 0)
            self.put(
                "migrations", epoch=self.epoch, block=block, src=source, dst=target, bytes=payload, start_s=start,
                first_byte_s=start + 0.001, last_byte_s=start + took, predicted_s=took * 0.97, outcome=COMMITTED,
                weights_bytes_loaded=loaded,
            )  # fmt: skip
            self.where[block] = target
        self.rated(source, "up", "migration", payload, peer=target)
        self.now = max(busy.values())
        self.happened("migration_committed", step, epoch=self.epoch, blocks=len(moves))
        return self.now - begin

    def latency(self, step: int) -> float:
        """The approximate latency of such a pipeline: streaming, and the transfers over slow links."""
        crossings = sum(
            self.where[f"ffn({layer})"] != self.where[f"head({layer + 1},0)"] for layer in range(LAYERS - 1)
        )
        slow = sum(self.where[f"ffn({layer})"] == "b" != self.where[f"head({layer + 1},0)"] for layer in range(11))
        hop = 3072 * 8 / 60e6 + 0.001
        return 0.180 + 0.00012 * step + crossings * hop + (1 + slow) * 3072 * 8 / self.rate["b", "up"] * 12

    def token(self, step: int) -> None:
        predicted = self.latency(step) if step else 0.62
        latency = predicted * self.random.lognormvariate(0.012, 0.018)
        if step in (23, 66):
            latency *= 1.3
        for layer in range(LAYERS):
            self.put(
                "spans", step=step, layer=layer, kind="block", block=f"ffn({layer})",
                device=self.where[f"ffn({layer})"], start_s=self.now + latency * layer / LAYERS,
                end_s=self.now + latency * (layer + 0.8) / LAYERS, bytes=SIZE["ffn"], flops=9.4e6,
                overrun=step == 23 and layer == 3,
            )  # fmt: skip
        self.put(
            "tokens", step=step, token_id=self.random.randrange(256), epoch=self.epoch, prefill=step == 0,
            start_s=self.now, latency_s=latency, predicted_s=predicted, compute_s=0.8 * latency,
            transfer_s=0.15 * latency, software_s=0.05 * latency, wire_bytes=60_000, logits_digest=f"{step:016x}",
        )  # fmt: skip
        self.now += latency

    def ledger(self, device: str, step: int) -> int:
        blocks = sum(size_of(block, step + 32) for block, where in self.where.items() if where == device)
        return blocks + (EMBED if device == "a" else 0)

    def sample(self, step: int) -> None:
        if step:
            self.put(
                "host", t_s=self.now, first_step=step - INTERVAL, last_step=step - 1, span_s=0.5, cores=2,
                own_share=0.14, others_share=0.01, idle_share=0.84, pressure_share=0.04, load=0.8,
            )  # fmt: skip
            for device in DEVICES:
                self.put("waits", device=device, first=step - INTERVAL, last=step - 1, wait_s=0.001, span_s=0.5)
        for device in DEVICES:
            ledger = self.ledger(device, step)
            self.put(
                "devices", t_s=self.now, device=device, budget_bytes=self.budget[device],
                ledger_bytes=int(ledger * self.random.uniform(1.0, 1.01)), predicted_bytes=ledger,
                limit_bytes=BUDGET[device] + RESERVE, ballast_bytes=self.ballast[device], runqueue_wait_s=0.001 * step,
                rss_bytes=ledger + RESERVE, alive=True,
            )  # fmt: skip
