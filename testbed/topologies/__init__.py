"""The emulated network: its devices, the links between them, and the device where the prompt enters.

`model` holds the `Topology`. `shapes`, `links`, `names`, `routes` and `fields` help it read a topology file.
`catalogue` knows named boards, `generate` draws topologies from a seed, and `mininet_adapter` builds Mininet's `Topo`.
"""
