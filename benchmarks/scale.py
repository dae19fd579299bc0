"""The cost of the testbed by the number of devices: start-up, memory per device, and software time per token.

`python -m benchmarks.scale` replays a tiny model, placed round-robin, on stars of 5, 25, 50 and 100 emulated devices.
It verifies each token bitwise and reads the figures from the run folders. It needs root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from testbed.runlog.folder import read_json, read_lines, read_rows

SIZES = (5, 25, 50, 100)
TOKENS = 17
DEVICE = {
    "streaming": "60 MB/s", "compute": "1 GFLOP/s", "memory": "8 MiB", "storage": "90 MB/s",
    "link": {"rate": "100 Mbit/s", "delay": "0.3 ms"},
}  # fmt: skip


def experiment(devices: int) -> dict[str, Any]:
    """A star of equal devices."""
    topology = {"shape": "star", "source": "d0", "devices": {f"d{number}": DEVICE for number in range(devices)}}
    return {
        "model": {"preset": "tiny", "seed": 1}, "prompt": "How many are we?", "tokens": TOKENS, "interval": 16,
        "topology": topology, "traces": [], "policy": "round-robin",
    }  # fmt: skip


def replay(devices: int, folder: Path) -> dict[str, Any]:
    """The figures of one run: start-up seconds, private bytes of an idle device, and the parts of a token's time."""
    file = folder / f"star{devices}.yaml"
    file.write_text(yaml.safe_dump(experiment(devices)))
    command = [sys.executable, "-m", "testbed", "replay", str(file), "--backend", "mininet", "--verify", "--json"]
    done = subprocess.run(
        [*command, "--accept-unfaithful", "--out", str(folder / "runs")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the run with {devices} devices ended with code {done.returncode}: {done.stderr.strip()}")
    summary = json.loads(done.stdout)
    run = Path(summary["path"])
    started = next(event for event in read_lines(run / "events.jsonl") if event["kind"] == "fleet_started")
    tokens = [row for row in read_rows(run, "tokens") if not row["prefill"]]
    alive = {row["device"] for row in read_rows(run, "devices") if row["alive"]}
    return {
        "devices": devices,
        "alive": len(alive),
        "verified": summary["verified"],
        "start_s": started["seconds"],
        "idle_private_bytes_each": statistics.median(read_json(run / "manifest.json")["facts"]["idle_private_bytes"]),
        "token_ms": 1e3 * statistics.median(row["latency_s"] for row in tokens),
        "software_ms_per_token": 1e3 * statistics.median(row["software_s"] for row in tokens),
    }


def main() -> None:
    """Print a line for each size and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    rows = []
    with tempfile.TemporaryDirectory(prefix="headroom-scale-") as folder:
        for size in SIZES:
            found = [replay(size, Path(folder)) for _ in range(rounds)]
            keys = ("start_s", "idle_private_bytes_each", "token_ms", "software_ms_per_token")
            rows.append(found[0] | {key: statistics.median(row[key] for row in found) for key in keys})
            row = rows[-1]
            print(
                f"{size:4d} devices, {row['alive']} alive, {row['verified']}: start {row['start_s']:.2f} s, "
                f"{row['idle_private_bytes_each'] / 1e6:.1f} MB private each, {row['software_ms_per_token']:.2f} ms "
                "software per token"
            )
    per_device = [row["start_s"] / row["devices"] for row in rows]
    print(
        json.dumps(
            {
                "benchmark": "scale",
                "peer": f"the same testbed with {SIZES[0]} devices",
                "ratio": per_device[0] / per_device[-1],
                "unit": f"times less start-up per device at {SIZES[-1]} devices",
                "rounds": rounds,
                "sizes": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
