"""Runs whose heads leave a device behind a slow uplink, with tokens stopped or going on, and what they show."""

from __future__ import annotations

from pathlib import Path

from running import Ended, rows, topology, two_placements, write_experiment

HEADS, ROW_BYTES, MOVES_AT = 12, 2 * 64 * 4, 4


def experiment(
    folder: Path, migration: str, *, prompt: int, tokens: int, layers: int, vocab: int = 50257,
    streaming: str = "1.5 GB/s",
) -> Path:  # fmt: skip
    """At token 4 all of layer 0's heads go from b, which has the other layers' heads, too, to c, at 20 Mbit/s."""
    return write_experiment(
        folder,
        name=migration,
        model={"preset": "gpt2", "layers": layers, "vocab": vocab, "seed": 7},
        prompt={"ids": [(7 * i + i // 64) % 1000 for i in range(prompt)]},
        tokens=tokens,
        interval=MOVES_AT,
        policy=two_placements(folder, {"*": "a", "head(*,*)": "b"}, {"head(0,*)": "c"}),
        prefill_chunk=250,
        migration=migration,
        compute="paced",
        topology=topology(
            a={"memory": "1 GiB", "streaming": streaming},
            b={
                "memory": "512 MiB",
                "streaming": streaming,
                "link": {"up": "20 Mbit/s", "down": "100 Mbit/s", "delay": "0.3 ms"},
            },
            c={"memory": "512 MiB", "streaming": streaming},
        ),
    )


def sent_bytes(run: Ended) -> int:
    """What b's uplink has carried."""
    uplink = [row for row in rows(run.folder, "links") if (row["device"], row["direction"]) == ("b", "up")]
    counts = [row["sent_bytes"] for row in uplink if row["sent_bytes"] is not None]
    return int(counts[-1] - counts[0])


def digests(run: Ended) -> list[str]:
    return [row["logits_digest"] for row in rows(run.folder, "tokens")]


def stall(run: Ended) -> tuple[int, float]:
    """The token before which blocks switched, and for how long none was generated."""
    found = [(row["step"], row["stall_s"]) for row in rows(run.folder, "decisions") if row["moved"]]
    assert len(found) == 1, rows(run.folder, "decisions")
    return found[0]


def latencies(run: Ended, first: int, last: int, what: str = "latency_s") -> list[float]:
    return [row[what] for row in rows(run.folder, "tokens") if first <= row["step"] < last]
