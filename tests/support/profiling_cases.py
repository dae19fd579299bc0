"""Models so small that profiling them takes no time."""

from __future__ import annotations

from dataclasses import replace

from testbed.models.presets import PRESETS
from testbed.profiling.computing import Probes

USUAL = Probes.like(PRESETS["smollm2-135m"])
_SIZES = {"heads": 4, "kv_heads": 2, "head_dim": 32}
TINY = Probes(
    replace(USUAL.plain, width=64, ffn_width=64, vocab=64, **_SIZES),
    replace(USUAL.small, layers=1, **_SIZES | {"head_dim": 16}),
    replace(USUAL.cached, layers=2, **_SIZES),
    model_bytes=50e3, short=4, long=16, tokens=2, rounds=2,
)  # fmt: skip
