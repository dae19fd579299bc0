"""The compiled half-layer against the plain one, on random fleets, counts and payloads."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from placement_cases import quickstart

from testbed.placement.cost.kernel import half_batch
from testbed.placement.cost.tables import demand_of, network_of
from testbed.placement.latency import Work, half_layer_latency, transfer_seconds
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.plan import send_order
from testbed.topologies.links import Cable, Link
from testbed.topologies.routes import routes_between, through_medium
from testbed.wire import OUTAGE_BPS


def random_star(rng: np.random.Generator, devices: int) -> Observation:
    """Log-uniform rates and delays; sometimes all alike, sometimes one link in an outage."""
    names = [f"d{n}" for n in range(devices)]
    alike = rng.random() < 0.3
    rates = 10 ** rng.uniform(5, 9, (devices, 2)) if not alike else np.full((devices, 2), 1e8)
    delays = 10 ** rng.uniform(-5, -2, (devices, 2)) * (rng.random() < 0.8)
    if rng.random() < 0.1:
        rates[rng.integers(devices), rng.integers(2)] = 0.0
    links = {name: LinkView(*map(float, (*rates[n], *delays[n]))) for n, name in enumerate(names)}
    views = tuple(DeviceView(name, 2**30, 1e9, 1e10, 1e8) for name in names)
    return replace(quickstart(), devices=views, links=links, source="d0", hop_overhead_s=rng.choice([0.0, 1e-4]))


def random_mesh(rng: np.random.Generator, devices: int) -> Observation:
    """Devices and two switches on a random tree with extra links, no two links quite alike."""
    star = random_star(rng, devices)
    nodes = [*star.links, "s1", "s2"]
    pairs = [(nodes[rng.integers(n)], nodes[n]) for n in range(1, len(nodes))]
    pairs += [(nodes[a], nodes[b]) for a, b in rng.integers(len(nodes), size=(3, 2)) if a != b]
    cables = [
        Cable(str(n), ends, Link(*map(float, (*10 ** rng.uniform(5, 9, 2), *10 ** rng.uniform(-5, -2, 2)))))
        for n, ends in enumerate(pairs)
    ]
    views = {c.name: LinkView(c.link.up_bps, c.link.down_bps, c.link.up_delay_s, c.link.down_delay_s) for c in cables}
    names = [view.name for view in star.devices]
    return replace(star, links=views, routes=routes_between(names, cables))


def random_wifi(rng: np.random.Generator, devices: int) -> Observation:
    """Devices that share one medium of a random rate and delay."""
    star = random_star(rng, devices)
    rate, delay = float(10 ** rng.uniform(5, 9)), float(10 ** rng.uniform(-5, -2))
    names = [view.name for view in star.devices]
    medium = LinkView(rate, rate, delay, delay)
    return replace(star, links={"medium": medium}, routes=through_medium(names, "medium"))


def plain_seconds(observation, x, payloads, unit_s, target_s, holder, target, counts):
    """The mean over lengths of `half_layer_latency`, in the send order that plans use."""
    names = [view.name for view in observation.devices]
    busy = [device for device, count in enumerate(counts) if count]
    tails = []
    for device in busy:
        tail = unit_s[0][device] * int(counts[device])
        if device != target:
            path = observation.path(names[device], names[target])
            tail += transfer_seconds(path, payloads[counts[device]], observation.hop_overhead_s)
        tails.append((names[device], tail))
    order = send_order(names[holder], names[target], tails)
    total = 0.0
    for units, goal in zip(unit_s, target_s, strict=True):
        work = [Work(names[d], units[d] * int(counts[d]), payloads[counts[d]]) for d in busy]
        total += half_layer_latency(
            observation.links,
            observation.hop_overhead_s,
            names[holder],
            order,
            x,
            work,
            names[target],
            goal[target],
            observation.paths,
        )
    return total / len(unit_s)


@pytest.mark.parametrize("network", [random_star, random_mesh, random_wifi])
@pytest.mark.parametrize("payload", ["heads", "shards", "none"])
def test_the_compiled_half_layer_is_the_plain_one(network, payload):
    rng = np.random.default_rng([7, len(payload), network is random_mesh])
    worst = 0.0
    for _ in range(60):
        devices = int(rng.integers(1, 9))
        observation = network(rng, devices)
        units = {"heads": int(rng.integers(1, 17)), "shards": 8, "none": 0}[payload]
        x = float(rng.choice([256, 3072, 8192]))
        payloads = [n.bit_count() * x if payload == "shards" else n * 256.0 for n in range(units + 1)]
        lengths = int(rng.integers(1, 3))
        unit_s, target_s = (10 ** rng.uniform(-5, -2, (lengths, devices)) for _ in range(2))
        demand = demand_of(x, payloads, unit_s, target_s)
        holders, targets = rng.integers(devices, size=(2, 30))
        spread = [rng.random(devices) ** 4 * (rng.random(devices) < 0.7) + 1e-9 for _ in holders]
        counts = np.array([rng.multinomial(units, weights / weights.sum()) for weights in spread])
        found = half_batch(network_of(observation), demand, holders, targets, counts)
        for seconds, *case in zip(found, holders, targets, counts, strict=True):
            want = plain_seconds(observation, x, payloads, unit_s, target_s, *case)
            assert want > 0
            worst = max(worst, abs(seconds - want) / want)
    assert worst <= 1e-12


def test_an_outage_counts_as_the_slowest_rate():
    observation = replace(
        quickstart(),
        links={name: LinkView(0.0, 0.0, 0.0, 0.0) for name in quickstart().links},
        hop_overhead_s=0.0,
    )
    demand = demand_of(100.0, [0.0], [[0.0] * 4], [[0.0] * 4])
    found = half_batch(network_of(observation), demand, np.array([0]), np.array([1]), np.zeros((1, 4), np.int64))
    assert found[0] == pytest.approx(demand.x_bits / OUTAGE_BPS)


def test_the_command_line_starts_without_numba():
    lines = "import sys, testbed.cli, testbed.placement.policies as p; p.make_policy('greedy', {}); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert "testbed.placement.cost.model" in ran.stdout and "numba" not in ran.stdout.split()
