"""Time per token of GPT-2 in float32 with random weights, split over devices, against other ways to decode it.

`python -m benchmarks.decode` has the workers of a run continue a prompt with each layer in equal parts on 2 and on 4
devices (`tensor-parallel`, native computing, links of 10 Gbit/s). Its peers are our decoder in one process,
transformers and, where its package is there, llama.cpp, with one thread each; and on as many devices in network
namespaces, the same blocks and the same exchange over plain blocking sockets, and Megatron's split in torch with gloo.
`--against FOLDER` also measures the workers of another checkout. All take turns, and each ratio is the median over the
rounds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.decode_ends import PATIENCE_S, SEED, SHARDS, address
from benchmarks.rounds import ratios, spread, told
from testbed.emulation.capsule import can_make_capsule, launch, prepare_inner
from testbed.errors import EnvironmentLacks

ROOT = Path(__file__).resolve().parents[1]
DEVICES = (2, 4)
ALONE = ("single", "transformers", *(("llama_cpp",) if find_spec("llama_cpp") else ()))
TOGETHER = ("sockets", "gloo")
INSIDE = "--inside"


def main() -> int:
    """Measure and print; raises EnvironmentLacks if this host cannot have a capsule."""
    if INSIDE in sys.argv:
        way, devices, tokens = sys.argv[2:5]
        prepare_inner()
        in_network(way, int(devices), int(tokens))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="of a round")
    given = parser.parse_args()
    lacking = can_make_capsule()
    if lacking is not None:
        raise EnvironmentLacks(f"benchmarks.decode needs a capsule: {lacking}")
    turns = [(way, 1) for way in ALONE] + [(way, devices) for way in (*TOGETHER, "ours") for devices in DEVICES]
    if given.against is not None:
        turns += [("theirs", devices) for devices in DEVICES]
    found: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}
    for number in range(given.rounds):
        for turn in turns[:: -1 if number % 2 else 1]:
            found[turn].append(token_ms(*turn, given.tokens, given.against))
            print(f"round {number + 1}: {name(*turn)} {found[turn][-1]:.1f} ms", file=sys.stderr, flush=True)
    report(found, given)
    return 0


def token_ms(way: str, devices: int, tokens: int, against: Path | None) -> float:
    """The milliseconds of one token: the median of a run."""
    if way == "ours":
        return replayed(ROOT, devices, tokens)
    if way == "theirs":
        assert against is not None
        return replayed(against.resolve(), devices, tokens)
    if devices == 1:
        done = subprocess.run(end(way, 0, 1, tokens), capture_output=True, text=True, env=environment(ROOT), check=True)
        said = done.stdout
    else:
        with tempfile.NamedTemporaryFile("r", prefix="headroom-decode-") as file:
            command = [sys.executable, "-m", "benchmarks.decode", INSIDE, way, str(devices), str(tokens)]
            code = launch(command, cwd=ROOT, env=environment(ROOT) | {"HEADROOM_DECODE_OUT": file.name})
            if code:
                raise SystemExit(f"{way} on {devices} devices ended with code {code}")
            said = file.read()
    return statistics.median(json.loads(said.splitlines()[-1])) * 1e3


def replayed(checkout: Path, devices: int, tokens: int) -> float:
    """The milliseconds of one token in a run of a checkout."""
    device = {"streaming": "2 GB/s", "compute": "20 GFLOP/s", "memory": "1 GiB", "storage": "2 GB/s",
              "link": {"rate": "10 Gbit/s", "delay": "0 ms"}}  # fmt: skip
    experiment = {
        "model": {"preset": "gpt2", "seed": SEED},
        "prompt": "the heads decode",  # 16 bytes are as many tokens
        "tokens": tokens,
        "interval": tokens,
        "compute": "native",
        "policy": "tensor-parallel",
        "partition": {"ffn_shards": SHARDS, "proj_rows": True, "exchange": "all-to-all"},
        "topology": {"shape": "star", "source": "a", "devices": dict.fromkeys("abcd"[:devices], device)},
    }
    with tempfile.TemporaryDirectory(prefix="headroom-decode-") as folder:
        file = Path(folder) / "decode.json"  # JSON is YAML
        file.write_text(json.dumps(experiment))
        command = [sys.executable, "-m", "testbed", "replay", str(file), "--backend", "mininet", "--json"]
        command += ["--accept-unfaithful", "--calibrate", "off", "--out", f"{folder}/run"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=checkout, env=environment(checkout))
        if done.returncode:
            raise SystemExit(f"a run of {checkout} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    summary = json.loads(done.stdout)
    return float(summary["token_latency_ms"]["p50"])


def in_network(way: str, devices: int, tokens: int) -> None:
    """Run a process for each device, in a network namespace of its own; the first one's answer goes to a file."""
    from mininet.log import setLogLevel
    from mininet.net import Mininet
    from mininet.nodelib import LinuxBridge

    setLogLevel("critical")
    Mininet.inited = True  # its fixLimits rewrites the host's sysctls
    net = Mininet(controller=None, switch=LinuxBridge)
    switch = net.addSwitch("s1")
    hosts = [net.addHost(f"h{rank}", ip=f"{address(rank)}/24") for rank in range(devices)]
    for host in hosts:
        net.addLink(host, switch)
    net.start()
    processes = []
    try:
        with Path(os.environ["HEADROOM_DECODE_OUT"]).open("w") as out:
            for rank, host in enumerate(hosts):
                own = environment(ROOT) | {"GLOO_SOCKET_IFNAME": host.defaultIntf().name}
                processes.append(host.popen(end(way, rank, devices, tokens), stdout=out, stderr=None, env=own))
            processes[0].wait(PATIENCE_S + tokens)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        net.stop()


def end(way: str, rank: int, devices: int, tokens: int) -> list[str]:
    """The command of one process."""
    return [sys.executable, "-P", str(ROOT / "benchmarks/decode_ends.py"), way, *map(str, (rank, devices, tokens))]


def environment(checkout: Path) -> dict[str, str]:
    """The environment in which a process finds the checkout's modules and has one thread."""
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def name(way: str, devices: int) -> str:
    """What a way is called in the output."""
    return way if devices == 1 else f"{way} on {devices}"


def report(found: dict[tuple[str, int], list[float]], given: argparse.Namespace) -> None:
    """Print a line of text for each way, and a last line of JSON."""
    for turn, times in found.items():
        print(f"{name(*turn)}: {spread(times)} ms per token")
    line: dict[str, Any] = {
        "benchmark": "decode",
        "peer": "the same operations on 4 devices over plain blocking sockets",
        "unit": "times the time per token",
        "ratio": statistics.median(ratios(found["ours", 4], found["sockets", 4])),
        "medians_ms": {name(*turn): statistics.median(times) for turn, times in found.items()},
        "tokens": given.tokens,
        "turns": given.rounds,
    }
    for devices in DEVICES:
        for way, count in found:
            if way == "ours" or count not in (1, devices):
                continue
            compared = ratios(found["ours", devices], found[way, count])
            print(f"ours on {devices}: {spread(compared)} times {name(way, count)}")
            line[f"ours on {devices} to {name(way, count)}"] = told(compared)
            if way == "gloo":
                line[f"{name(way, count)} to ours"] = told(ratios(found[way, count], found["ours", devices]))
    print(json.dumps(line))


if __name__ == "__main__":
    sys.exit(main())
