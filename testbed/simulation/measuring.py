"""What a simulated fleet answers when it is measured or changed: it behaves exactly as the model says."""

from __future__ import annotations

from testbed.controller.fleet import LinkSample, TargetState
from testbed.placement.latency import transfer_seconds
from testbed.placement.observation import Observation
from testbed.transport.messages import Ping, Pinged, Probe, Probed


def pinged(observation: Observation, device: str, command: Ping) -> Pinged:
    """The round trips of a Ping."""
    paths = [observation.path(*pair) for pair in ((device, command.peer), (command.peer, device))]
    trip = sum(transfer_seconds(path, 0.0, observation.hop_overhead_s) for path in paths)
    return Pinged(command.peer, [trip] * command.count)


def probed(observation: Observation, now_s: float, device: str, command: Probe) -> tuple[float, str, Probed]:
    """(when the last byte of a probe comes, to whom, what that device says)."""
    path = observation.path(device, command.peer)
    since_sent_s = transfer_seconds(path, command.size)
    seconds = since_sent_s - sum(leg.delay_s for leg in path)
    return now_s + since_sent_s, command.peer, Probed(device, command.size, seconds, since_sent_s)


def changed_links(before: TargetState | None, target: TargetState) -> list[LinkSample]:
    """Both directions of the links that are not what they were."""
    return [
        sample
        for name, link in target.links.items()
        if before is None or before.links[name] != link
        for sample in (
            LinkSample(name, "up", link.up_bps, link.up_bps, None, link.up_delay_s),
            LinkSample(name, "down", link.down_bps, link.down_bps, None, link.down_delay_s),
        )
    ]
