"""Topologies for plain Mininet.

    mn --custom topologies/mininet_adapter.py --topo headroom,topologies/star4.yaml --switch lxbr --controller none

`mn` executes the text of this file with the system's Python, without a module name or `__file__`, and copies its global
names into its own: hence the imports inside functions. The topology itself is made by
`testbed.topologies.mininet_adapter`.
"""

from __future__ import annotations

from typing import Any


def _for_mn(name_or_path: object) -> Any:
    """What `--topo headroom,PATH` calls: the topology in a file, or a bundled one by name, with shaped links."""
    import sys

    root = _repository()
    if root not in sys.path:
        sys.path.insert(0, root)
    from testbed.bundled import find_file
    from testbed.topologies.mininet_adapter import build_topo
    from testbed.topologies.model import Topology

    return build_topo(Topology.load(find_file("topology", str(name_or_path))), shaped=True)


def _repository() -> str:
    """The folder that holds the packages; taken from the code object, for `mn` sets no `__file__`."""
    from pathlib import Path

    return str(Path(_repository.__code__.co_filename).resolve().parent.parent)


topos = {"headroom": _for_mn}
