"""Fleets, shapes and placements for the placement tests: random ones for properties, and the quickstart's."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from testbed.formats import PLAIN
from testbed.models.presets import PRESETS
from testbed.placement.blocks import WHOLE, Partition, Placement, blocks_of, copied_bytes, pinned_bytes, resident_bytes
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.shape import ModelShape, WeightFormats
from testbed.topologies.links import Cable, Link
from testbed.topologies.routes import routes_between

MIB = 2**20
NAMES = "abcde"
formats = st.sampled_from(["float32", *PLAIN])


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    """Small models in plain formats: 1-3 layers, 1-4 KV groups, grouped queries or not, gates and biases or not."""
    biases = draw(st.booleans())
    groups, per_group = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    head_dim = draw(st.sampled_from([4, 16]))
    return ModelShape(
        "small",
        layers=draw(st.integers(1, 3)),
        width=draw(st.sampled_from([8, 64])),
        heads=groups * per_group,
        kv_heads=groups,
        head_dim=head_dim,
        ffn_width=draw(st.sampled_from([16, 256])),
        vocab=64,
        positions=128,
        gated_ffn=draw(st.booleans()),
        qkv_bias=biases,
        proj_bias=biases,
        ffn_bias=biases,
        norm_bias=biases,
        qk_norm=not biases,
        window=draw(st.sampled_from([None, None, 8])),
        weights=WeightFormats.all_in(draw(formats)),
        kv_format=draw(formats),
        wire_format=draw(formats),
    )


rates = st.floats(1e5, 1e9)
delays = st.floats(0, 0.02)
links = st.builds(LinkView, up_bps=rates, down_bps=rates, up_delay_s=delays, down_delay_s=delays)


partitions = st.one_of(
    st.just(Partition()),
    st.builds(
        Partition,
        ffn_shards=st.sampled_from([1, 2, 4, 8]),
        proj_rows=st.booleans(),
        vocab_shards=st.sampled_from([1, 1, 2, 3, 5]),
    ),
)
all_to_all = st.builds(
    Partition, st.sampled_from([2, 4, 8]), st.just(True), st.sampled_from([1, 3]), st.just("all-to-all")
)
any_partition = st.one_of(partitions, all_to_all)


def whole_bytes(shape: ModelShape, partition: Partition = WHOLE) -> int:
    """The whole model with a cache of 60 positions."""
    blocks = blocks_of(shape, partition)
    kept = pinned_bytes(shape, partition) + copied_bytes(shape, partition)
    return kept + sum(resident_bytes(shape, block, 60, partition) for block in blocks)


@st.composite
def observations(
    draw: st.DrawFn,
    tightness: st.SearchStrategy[float] | None = None,
    cuts: st.SearchStrategy[Partition] = partitions,
) -> Observation:
    """A random fleet; with `tightness`, each budget is that multiple of the model's bytes over the fleet's size."""
    shape, partition = draw(shapes()), draw(cuts)
    names = NAMES[: draw(st.integers(1, 5))]
    whole = whole_bytes(shape, partition)
    budgets = [int(draw(tightness) * whole / len(names)) if tightness is not None else 2 * whole for _ in names]
    devices = tuple(
        DeviceView(name, budget, draw(st.floats(1e7, 1e10)), draw(st.floats(1e7, 1e11)), draw(st.floats(1e6, 1e9)))
        for name, budget in zip(names, budgets, strict=True)
    )
    return Observation(
        shape,
        partition,
        source=draw(st.sampled_from(names)),
        devices=devices,
        links={name: draw(links) for name in names},
        prompt_tokens=draw(st.integers(1, 20)),
        tokens_done=0,
        tokens_max=40,
        interval=8,
        weights=draw(st.sampled_from(["staged", "shipped"])),
        hop_overhead_s=draw(st.sampled_from([0.0, 1e-4])),
    )


@st.composite
def placed(draw: st.DrawFn, cuts: st.SearchStrategy[Partition] = partitions) -> tuple[Observation, Placement]:
    """A random fleet with room for everything, and a random complete placement on it."""
    observation = draw(observations(cuts=cuts))
    names = [view.name for view in observation.devices]
    return observation, draw(random_placements(observation, names))


@st.composite
def networked(draw: st.DrawFn, cuts: st.SearchStrategy[Partition] = partitions) -> tuple[Observation, Placement]:
    """The same on a random connected network: devices with several links, and perhaps switches in between.

    No two links are quite alike, so that no two messages come to a link at the same time.
    """
    observation, placement = draw(placed(cuts))
    nodes = [view.name for view in observation.devices]
    nodes += ["s1", "s2"][: draw(st.integers(0, 2))]
    pairs = [(draw(st.sampled_from(nodes[:n])), nodes[n]) for n in range(1, len(nodes))]
    if len(nodes) > 2:
        extra = draw(st.lists(st.tuples(st.sampled_from(nodes), st.sampled_from(nodes)), max_size=3))
        pairs += [pair for pair in extra if pair[0] != pair[1]]
    cables = []
    for number, ends in enumerate(pairs):
        odd = 1 + 0.618034 * (number + 1) % 1 / 100
        one, back = draw(rates) * odd, draw(rates) * odd
        link = Link(one, back, draw(delays) * odd + 1e-5 * odd, draw(delays) * odd + 1.1e-5 * odd)
        cables.append(Cable(f"{number}", ends, link))
    views = {
        cable.name: LinkView(cable.link.up_bps, cable.link.down_bps, cable.link.up_delay_s, cable.link.down_delay_s)
        for cable in cables
    }
    names = [view.name for view in observation.devices]
    return replace(observation, links=views, routes=routes_between(names, cables)), placement


@st.composite
def random_placements(draw: st.DrawFn, observation: Observation, names: list[str]) -> Placement:
    blocks = blocks_of(observation.shape, observation.partition)
    where = draw(st.lists(st.sampled_from(names), min_size=len(blocks), max_size=len(blocks)))
    return Placement(dict(zip(blocks, where, strict=True)), draw(st.integers(0, 9)))


def quickstart(
    tokens_done: int = 0, b_mib: int = 176, b_rate_bps: float = 1e8, partition: Partition = WHOLE
) -> Observation:
    """The quickstart's fleet: four unequal devices, none of which holds the whole model."""
    boards = (("a", 248, 1.9e9), ("b", b_mib, 2.2e9), ("c", 144, 1.5e9), ("d", 112, 1.2e9))
    access = {"a": (2e8, 2e-4), "b": (b_rate_bps, 3e-4), "c": (1e8, 5e-4), "d": (5e7, 1e-3)}
    return Observation(
        PRESETS["gpt2"],
        partition,
        source="a",
        devices=tuple(DeviceView(name, mib * MIB, rate, 12e9, 9e7) for name, mib, rate in boards),
        links={name: LinkView(rate, rate, delay, delay) for name, (rate, delay) in access.items()},
        prompt_tokens=24,
        tokens_done=tokens_done,
        tokens_max=96,
        interval=8,
        hop_overhead_s=1e-4,
    )


def roomy(observation: Observation) -> Observation:
    """The same devices with memory for anything."""
    return replace(observation, devices=tuple(replace(view, available_bytes=2**31) for view in observation.devices))


def in_layers(observation: Observation, devices: tuple[str, ...]) -> Placement:
    """Whole layers on these devices."""
    return Placement({block: devices[block.layer] for block in blocks_of(observation.shape, observation.partition)})
