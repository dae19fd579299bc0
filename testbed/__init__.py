"""Headroom: a network-emulation testbed for placing the attention heads of a language model on small devices.

What the command line does, one call does here:

    >>> import testbed
    >>> run = testbed.replay("experiments/small-scale.yaml", backend="sim", policy="headroom", seed=3)
    >>> run.tokens, run.summary, run.folder
    >>> table = testbed.compare("experiments/small-scale.yaml", ["greedy", "headroom"], seeds=20, backend="sim")

Whatever goes wrong is a `testbed.errors.TestbedError`. Nothing is printed unless `progress` or `hold` asks for it. Each
name below is imported when it is first used, so that `import testbed` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from testbed.version import __version__

if TYPE_CHECKING:
    from testbed.analysis.load import load as load_run
    from testbed.experiment.schema import Experiment
    from testbed.placement.blocks import Placement
    from testbed.placement.observation import Observation, Policy
    from testbed.running.compare import compare
    from testbed.running.replay import replay
    from testbed.running.resume import resume
    from testbed.running.sweep import sweep
    from testbed.topologies.model import Topology
    from testbed.traces.model import Trace

__all__ = [
    "Experiment",
    "Observation",
    "Placement",
    "Policy",
    "Topology",
    "Trace",
    "__version__",
    "compare",
    "load_run",
    "replay",
    "resume",
    "sweep",
]

_HOMES = {
    "Experiment": ("testbed.experiment.schema", "Experiment"),
    "Observation": ("testbed.placement.observation", "Observation"),
    "Placement": ("testbed.placement.blocks", "Placement"),
    "Policy": ("testbed.placement.observation", "Policy"),
    "Topology": ("testbed.topologies.model", "Topology"),
    "Trace": ("testbed.traces.model", "Trace"),
    "compare": ("testbed.running.compare", "compare"),
    "load_run": ("testbed.analysis.load", "load"),
    "replay": ("testbed.running.replay", "replay"),
    "resume": ("testbed.running.resume", "resume"),
    "sweep": ("testbed.running.sweep", "sweep"),
}
"""Name -> the module that defines it, and its name there."""


def __getattr__(name: str) -> Any:
    """Import a name of the library when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, inner = _HOMES[name]
    found = getattr(import_module(module), inner)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the names that the library offers, imported or not."""
    return sorted(__all__)
