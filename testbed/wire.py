"""Sizes and rates of Ethernet, TCP and an emulated link at rest, which several rooms use.

It is a leaf: it imports nothing, and it knows neither links nor messages.
"""

from __future__ import annotations

MTU_BYTES = 1500  # of an Ethernet interface
SEGMENT_PAYLOAD_BYTES = 1448  # the MTU less IP, TCP and its timestamp option
SEGMENT_HEADER_BYTES = 66  # Ethernet 14, IP 20, TCP 32
FRAME_BYTES = SEGMENT_PAYLOAD_BYTES + SEGMENT_HEADER_BYTES  # of a full frame on the wire
TCP_SHARE = 0.956  # the share of a link's rate that is TCP payload in full frames
OUTAGE_BPS = 8.0  # a rate of 0 is held at one byte per second: a token-bucket queue cannot hold 0 (docs/design.md)
