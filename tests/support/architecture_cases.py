"""Random small architectures in random formats, with partitions that cut no block, for property tests of the bits."""

from __future__ import annotations

from hypothesis import strategies as st

from testbed.experiment.cuts import check_cuts, check_rows
from testbed.formats import FORMATS, PLAIN
from testbed.placement.blocks import Partition
from testbed.shape import ModelShape, Rope, WeightFormats

ROPES = [
    Rope(10_000.0), Rope(100.0, "linear", 2.5), Rope(10_000.0, "llama3", 8.0, 1.0, 4.0, 16),
    Rope(10_000.0, "factors", factors=(1.0, 2.0, 4.0, 8.0) * 4),
]  # fmt: skip
POSITIONS = 24
_plain = st.sampled_from(PLAIN)
_role = st.sampled_from(list(FORMATS))


@st.composite
def architectures(draw: st.DrawFn) -> ModelShape:
    """1-2 layers of a GPT-2 or a Llama with any of their options; sizes are whole blocks for quantised formats."""
    llama, quantised = draw(st.booleans()), draw(st.booleans())
    groups, per_group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3]) if llama else st.just(1))
    head_dim = 32 if quantised else draw(st.sampled_from([4, 10, 32]))
    rope = draw(st.sampled_from(ROPES[: 4 if head_dim == 32 else 3])) if llama else None
    return ModelShape(
        "drawn",
        layers=draw(st.integers(1, 2)),
        width=32 * draw(st.integers(1, 3)) if quantised else draw(st.sampled_from([12, 31, 64])),
        heads=groups * per_group,
        kv_heads=groups,
        head_dim=head_dim,
        ffn_width=128 if quantised else draw(st.sampled_from([20, 128])),
        vocab=61,
        positions=POSITIONS,
        gated_ffn=llama,
        tied_embedding=draw(st.booleans()),
        learned_positions=rope is None,
        qkv_bias=draw(st.booleans()),
        proj_bias=draw(st.booleans()),
        ffn_bias=draw(st.booleans()),
        norm_bias=not llama,
        norm="rms" if llama else "layer",
        activation="silu" if llama else draw(st.sampled_from(["gelu_new", "gelu"])),
        rope=rope,
        qk_norm=llama and draw(st.booleans()),
        window=draw(st.sampled_from([None, 1, 5])),
        window_from=draw(st.integers(0, 1)),
        attention_scale_by_layer=draw(st.booleans()),
        weights=draw(st.builds(WeightFormats, *[_role] * 5, _plain, _role) if quantised else
                     st.builds(WeightFormats, *[_plain] * 7)),
        kv_format=draw(_plain),
        wire_format=draw(_plain),
    )  # fmt: skip


@st.composite
def cut_models(draw: st.DrawFn) -> tuple[ModelShape, Partition]:
    """An architecture, and a partition of it that an experiment may ask for."""
    shape = draw(architectures())
    shards, rows = draw(st.sampled_from([1, 2, 4])), draw(st.booleans())
    exchange = draw(st.sampled_from(["hub", "all-to-all"])) if rows and shards > 1 else "hub"
    partition = Partition(shards, rows, draw(st.sampled_from([1, 3])), exchange)
    check_rows(shape, "drawn")
    check_cuts(shape, partition, str)
    return shape, partition
