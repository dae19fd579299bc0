"""Rates and delays of links, found from the messages that crossed them. Device clocks need not agree.

A message's apparent time is its receiver's stamp less its sender's. On one path all of them are off by the same
difference of the two clocks. So what larger messages take longer tells the path's rate, and so does a change from one
interval to the next; the apparent times there and back, added up, tell the delay. Waiting behind other messages of the
same sender is taken off first. A path's rate is that of its slowest link: a change is laid on the link that no other
path has shown to be faster.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from testbed.controller.link_samples import SLOWEST_BPS, LinkBelief, Message, PathRate, Train, Transit
from testbed.placement.observation import Hop, Observation

LOW = 0.1  # the share of a path's messages that are taken to have met nothing on their way
TRAIN_REACHES = 0.75  # of a link's rate at least; a busy host lets a short burst of TCP reach no more
WIFI_DELAYS = 20  # a burst that passes a medium twice tells its rate if it lasts so many delays
DELAY_NOISES = 4  # a delay must be off by so many times the noise of a time stamp to be another one

Pair = tuple[str, str]


class PathEstimates:
    """Beliefs about links, kept up to date from messages. `belief(link, quantity)` gives them."""

    def __init__(self, told: Observation, transit: Transit, belief: Callable[[str, str], LinkBelief]) -> None:
        self._told, self._transit, self._belief = told, transit, belief
        self._routes: dict[Pair, tuple[Hop, ...]] = {}
        self._offsets: dict[Pair, float] = {}  # of each path: its delay, and what the clocks differ by
        self._sure: set[Pair] = set()  # paths on which sizes have told rate and delay apart
        self.doubted: set[Hop] = set()  # directions of links on which a probe should look again
        self._shown: dict[Hop, float] = {}  # the highest rates that were told or reached
        self._lately: dict[Hop, float] = {}  # and those that were reached since the last interval began
        self.kept_up_s: dict[Hop, float] = {}  # when a link was last on a path whose rate was seen
        for name, link in told.links.items():
            self._shown |= {(name, "up"): link.up_bps, (name, "down"): link.down_bps}

    def hear(self, messages: Sequence[Message], now_s: float) -> frozenset[Hop]:
        """Take in an interval's messages; returns the directions of links that they used.

        How long messages waited for one another depends on the links' rates. So they are looked at twice: first those
        that waited for nothing, with the rates that were believed, then all with those that the first look has found.
        """
        hops = frozenset(hop for message in messages for hop in self._hops((message.sender, message.receiver)))
        before = {hop: self._belief(*hop).state for hop in hops}
        offsets, sure, doubted, kept_up_s = (
            dict(self._offsets),
            set(self._sure),
            set(self.doubted),
            dict(self.kept_up_s),
        )
        self._look(messages, {hop: self._belief(*hop).value for hop in hops}, now_s, (False,))
        found = {hop: self._belief(*hop).value for hop in hops}
        for hop, state in before.items():
            self._belief(*hop).state = state
        self._offsets, self._sure, self.doubted, self.kept_up_s = dict(offsets), sure, doubted, kept_up_s
        seen = self._look(messages, found, now_s)
        self._doubt({pair for pair in seen - self._sure if pair in self._offsets and pair not in offsets}, offsets)
        self._delays({pair: self._offsets[pair] for pair in seen & self._sure}, now_s)
        return hops

    def _look(
        self,
        messages: Sequence[Message],
        rates: Mapping[Hop, float],
        now_s: float,
        looks: Sequence[bool] = (False, True),
    ) -> set[Pair]:
        """Find the paths' rates from messages that met no others; returns the paths that were seen.

        Messages that waited behind others of their sender are looked at last, and only where a path has no others.
        """
        self._lately.clear()
        joined, floors = self._arrivals(messages, rates)
        for pair, floor in floors.items():
            self._reached(pair, floor)
        seen: set[Pair] = set()
        for waited in looks:
            times = {
                pair: found
                for pair, found in self._times(messages, rates, joined, waited).items()
                if pair not in seen
            }  # fmt: skip
            seen |= set(times)
            self._lay({pair: found for pair in times if (found := self._path(pair, times[pair])) is not None}, now_s)
        margin = 1 + self._transit.tolerance
        raised = {pair: floor for pair, floor in floors.items() if floor > self._slowest(pair) * margin}
        self._lay({pair: PathRate(floor, at_least=True) for pair, floor in raised.items()}, now_s)
        return seen

    def hear_trains(self, trains: Sequence[Train], now_s: float) -> None:
        """Take in how long bursts over idle paths took, by their receivers' clocks alone.

        The empty message before a burst takes no time for its bits, so it tells the path's delay apart from its rate.
        """
        rates = {train[:2]: found for train in trains if (found := self._of_train(train)) is not None}
        before = {hop: self._belief(*hop).value for pair in rates for hop in self._hops(pair)}
        self.doubted -= {*before}
        self._lay(rates, now_s, bursts=True)
        changed = {hop for hop, value in before.items() if self._belief(*hop).value != value}
        self._sure -= {pair for pair, found in rates.items() if found.news}
        for other in [each for each in self._offsets if each not in self._sure]:
            if changed & {*self._hops(other)}:  # what looked like a delay was perhaps this rate
                del self._offsets[other]
        for train in trains:
            if train[:2] in rates and train.apparent_s is not None and math.isfinite(train.apparent_s):
                self._offsets.setdefault(train[:2], train.apparent_s)

    def _of_train(self, train: Train) -> PathRate | None:
        """What a burst tells of its path's rate; None for one that was too short to tell a medium's."""
        pair, transit, seconds = train[:2], self._transit, train.seconds
        believed, hops = self._slowest(pair), self._hops(pair)
        if len(set(hops)) < len(hops) and seconds < WIFI_DELAYS * self._told.path(*pair)[0].delay_s:
            return None
        expected_s = transit.seconds(train.bits, believed)
        reaches = 1.0 if self.doubted & set(hops) else TRAIN_REACHES
        if transit.agree(seconds, expected_s) or expected_s < seconds <= expected_s / reaches:
            return PathRate(believed, news=False)
        rate = transit.rate(lambda rate: transit.seconds(train.bits, rate), seconds)
        self._reached(pair, rate)
        return PathRate(rate)

    def forget_clock(self, device: str) -> None:
        """The device has another clock from now on: what messages to and from it seemed to take tells nothing more."""
        for pair in [pair for pair in self._offsets if device in pair]:
            del self._offsets[pair]
        self._sure = {pair for pair in self._sure if device not in pair}

    # --- a path --------------------------------------------------------------------------------------------

    def _hops(self, pair: Pair) -> tuple[Hop, ...]:
        found = self._routes.get(pair)
        if found is None:
            found = self._routes[pair] = tuple(leg.hop for leg in self._told.path(*pair))
        return found

    def _slowest(self, pair: Pair) -> float:
        return self._rate(pair, {hop: self._belief(*hop).value for hop in self._hops(pair)})

    def _rate(self, pair: Pair, rates: Mapping[Hop, float]) -> float:
        """A path's rate at these rates of links; a medium that it passes twice carries half of its own."""
        hops = self._hops(pair)
        return min(rates[hop] / hops.count(hop) for hop in hops)

    def _reached(self, pair: Pair, rate_bps: float) -> None:
        """Remember that a path has shown this rate by its receiver's clock alone."""
        hops = self._hops(pair)
        for hop in hops:
            self._shown[hop] = max(self._shown[hop], rate_bps * hops.count(hop))

    def _possible(self, pair: Pair, rate_bps: float, seen_s: float) -> PathRate:
        """A rate that two clocks tell, at most what the path was told or shown to have.

        A path looks faster than it is where small messages waited and large ones did not, or where its delay was taken
        to be too long. Then its delay is not known.
        """
        most = self._rate(pair, self._shown)
        if rate_bps > most:
            self._sure.discard(pair)
            return PathRate(most, at_least=True)
        return PathRate(rate_bps, rough=self._transit.rough(seen_s))

    def _arrivals(self, messages: Sequence[Message], rates: Mapping[Hop, float]) -> tuple[set[int], dict[Pair, float]]:
        """(the messages that arrived right behind another one and may have waited for it, the least rate of each path).

        A path has at least the rate at which a message followed another one over it, by the receiver's clock alone.
        """
        transit = self._transit
        last: dict[Hop, tuple[float, Pair]] = {}
        joined: set[int] = set()
        least: dict[Pair, list[float]] = defaultdict(list)
        for number in sorted(range(len(messages)), key=lambda number: messages[number].received_s):
            message = messages[number]
            pair = message.sender, message.receiver
            hops = self._hops(pair)
            slowest = max(self._rate(pair, rates), SLOWEST_BPS)
            before_s, before = last.get(hops[-1], (-math.inf, pair))
            gap_s = message.received_s - before_s
            if gap_s <= message.bits / slowest * (1 + transit.tolerance):
                joined.add(number)
            if before == pair and len(set(hops)) == len(hops) and 10 * transit.noise_s < gap_s < math.inf:
                least[pair].append(max(0.0, message.bits - transit.burst_bits(slowest)) / gap_s)
            last[hops[-1]] = message.received_s, pair
        return joined, {pair: sorted(found)[-1 - int(LOW * len(found))] for pair, found in least.items()}

    def _times(
        self, messages: Sequence[Message], rates: Mapping[Hop, float], joined: set[int], waited: bool
    ) -> dict[Pair, dict[float, float]]:
        """Of each path, by the size of messages: the least that they took, less the wait behind their sender's own.

        Those that `joined` another one do not count, and those that waited only where `waited` says so.
        """
        free: dict[Hop, float] = {}
        found: dict[Pair, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        order = sorted(range(len(messages)), key=lambda number: (messages[number].sender, messages[number].sent_s))
        for number in order:
            message = messages[number]
            pair = message.sender, message.receiver
            first = self._hops(pair)[0]
            begun = max(message.sent_s, free.get(first, message.sent_s))
            free[first] = begun + message.bits / max(rates[first], SLOWEST_BPS)
            if number not in joined and (waited or begun <= message.sent_s):
                found[pair][message.bits].append(message.received_s - begun)
        return {
            pair: {bits: sorted(seen)[int(LOW * len(seen))] for bits, seen in by_size.items()}
            for pair, by_size in found.items()
        }

    def _path(self, pair: Pair, by_size: dict[float, float]) -> PathRate | None:
        """What messages tell of a path's rate; None for nothing.

        On links that are neither the sender's nor the receiver's, messages may wait for those of others. There only a
        faster path is believed, and a slower one is left to probes; so is a medium that a message passes twice.
        """
        transit, believed, hops = self._transit, self._slowest(pair), self._hops(pair)
        if len(set(hops)) < len(hops):
            return None
        small, large = min(by_size), max(by_size)
        more_s = by_size[large] - by_size[small]
        expected_s = transit.seconds(large, believed) - transit.seconds(small, believed)
        news = not transit.agree(more_s, expected_s)
        unlike = news and more_s <= 0  # the small ones have waited, or the rate makes no difference any more
        if max(more_s, expected_s) > 10 * transit.noise_s and large > small and not unlike:
            found = PathRate(believed, news=False)
            if news and len(hops) > 2 and more_s > expected_s:
                return None
            self._sure.add(pair)
            if news:
                rate = transit.rate(lambda rate: transit.seconds(large, rate) - transit.seconds(small, rate), more_s)
                found = self._possible(pair, rate, more_s)
            self._offsets[pair] = by_size[small] - transit.seconds(small, found.rate_bps)
            return found
        held_s = transit.seconds(large, believed)
        if pair not in self._offsets:
            self._offsets[pair] = by_size[large] - held_s
            return None
        seen_s = by_size[large] - self._offsets[pair]
        if transit.agree(seen_s, held_s):
            return PathRate(believed, news=False, rough=transit.rough(held_s)) if held_s > 2 * transit.noise_s else None
        most = self._rate(pair, self._shown)
        if 0 < seen_s <= 2 * transit.noise_s and believed < most:  # a slow path has recovered
            least = transit.rate(lambda rate: transit.seconds(large, rate), max(seen_s, transit.noise_s))
            return PathRate(min(most, least), at_least=True)
        if seen_s <= 2 * transit.noise_s:  # faster than any rate: the delay is less than it was
            self._offsets[pair] = by_size[large] - held_s
            self._sure.discard(pair)
            return None
        if len(hops) > 2 and seen_s > held_s:
            return None
        rate = transit.rate(lambda rate: transit.seconds(large, rate), seen_s)
        found = self._possible(pair, rate, seen_s)
        if found.at_least:  # the delay was perhaps taken to be too long
            self._offsets[pair] = by_size[large] - transit.seconds(large, found.rate_bps)
        return found

    # --- links ----------------------------------------------------------------------------------------------

    def _lay(self, rates: dict[Pair, PathRate], now_s: float, bursts: bool = False) -> None:
        """Lay the paths' rates on their links; what slows a burst is no link that has shown more lately."""
        needed: dict[Pair, dict[Hop, float]] = {}  # the rate of each link that its path's rate takes
        reached: dict[Hop, float] = defaultdict(float, self._lately if bursts else {})  # what it has shown it can do
        for pair, found in rates.items():
            hops = self._hops(pair)
            needed[pair] = {hop: found.rate_bps * hops.count(hop) for hop in hops}
            for hop, rate_bps in needed[pair].items():
                reached[hop] = max(reached[hop], rate_bps)
                if not (found.rough or found.at_least):
                    self._lately[hop] = max(self._lately.get(hop, 0.0), rate_bps)
                self.kept_up_s[hop] = now_s
        margin = 1 + self._transit.tolerance
        shared: Counter[Hop] = Counter()  # how many slow bursts a link may be the reason of
        for pair in (pair for pair, found in rates.items() if bursts and found.news):
            shared.update(hop for hop, rate_bps in needed[pair].items() if reached[hop] <= rate_bps * margin)
        for pair, found in sorted(rates.items(), key=lambda item: -item[1].rate_bps):
            beliefs = {hop: self._belief(*hop) for hop in needed[pair]}
            if not found.news:
                for hop, rate_bps in needed[pair].items():
                    if beliefs[hop].value <= rate_bps * margin:
                        beliefs[hop].confirm(now_s)
                continue
            slower = [hop for hop, rate_bps in needed[pair].items() if beliefs[hop].value < rate_bps]
            if slower or found.at_least:  # the path did more than was believed, at least when it was looked at
                for hop in slower:
                    self._hear(hop, needed[pair][hop], found, now_s)
                continue
            suspects = [hop for hop, rate_bps in needed[pair].items() if reached[hop] <= rate_bps * margin]
            suspects = suspects or (list(beliefs) if bursts else [])
            if suspects:  # else all links of the path have shown more, and its messages waited for something
                slowest = min(suspects, key=lambda hop: (-shared[hop], beliefs[hop].value))
                self._hear(slowest, needed[pair][slowest], found, now_s)
                if bursts and len(suspects) > 1:  # it may have been another one
                    self.doubted |= {*suspects}

    def _hear(self, hop: Hop, rate_bps: float, found: PathRate, now_s: float) -> None:
        """Take in a link's rate, and doubt it where it may be far off."""
        self._belief(*hop).hear(rate_bps, now_s)
        if found.rough or (found.at_least and rate_bps < self._shown[hop]):
            self.doubted.add(hop)

    def _doubt(self, fresh: set[Pair], offsets: Mapping[Pair, float]) -> None:
        """Doubt the links of new paths that take longer than other paths let expect: a delay, or a lower rate.

        The paths with `offsets` tell what the clocks of devices differ by.
        """
        ahead = self._clocks(offsets)
        for pair in fresh:
            hops, (begin, end) = self._hops(pair), (ahead.get(name) for name in pair)
            if begin is None or end is None or begin[0] != end[0] or len(hops) > 2 or len(set(hops)) < len(hops):
                continue
            believed_s = self._delay(pair)
            seen_s = self._offsets[pair] - (end[1] - begin[1])
            if seen_s > believed_s and not self._transit.agree(seen_s, believed_s):
                self.doubted |= set(hops)

    def _clocks(self, offsets: Mapping[Pair, float]) -> dict[str, tuple[str, float]]:
        """By device: one that paths lead to, and by how much the device's clock is ahead of that one's."""
        beside: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for (sender, receiver), offset in offsets.items():
            ahead_s = offset - self._delay((sender, receiver))
            beside[sender].append((receiver, ahead_s))
            beside[receiver].append((sender, -ahead_s))
        found: dict[str, tuple[str, float]] = {}
        for root in beside:
            found.setdefault(root, (root, 0.0))
            reached = [root] if found[root][0] == root else []
            for device in reached:  # it grows
                for other, ahead_s in beside[device]:
                    if other not in found:
                        found[other] = root, found[device][1] + ahead_s
                        reached.append(other)
        return found

    def _delay(self, pair: Pair) -> float:
        return sum(self._belief(name, f"{way}_delay").value for name, way in self._hops(pair))

    def _delays(self, offsets: dict[Pair, float], now_s: float) -> None:
        """Find delays from paths that were used there and back; the clocks' difference cancels in the sum."""
        excess: dict[str, list[float]] = defaultdict(list)  # link -> what its paths there and back take beyond belief
        for pair, offset in offsets.items():
            back = pair[1], pair[0]
            if pair > back or back not in offsets:
                continue
            hops = self._hops(pair) + self._hops(back)
            believed = sum(self._belief(name, f"{way}_delay").value for name, way in hops)
            seen = offset + offsets[back]
            off = seen - believed
            if abs(off) <= DELAY_NOISES * self._transit.noise_s + self._transit.tolerance * believed:
                off = 0.0
            for name in {name for name, _ in hops}:
                excess[name].append(off)
        changed = {
            name: min(found, key=abs)
            for name, found in excess.items()
            if min(found) > 0 or max(found) < 0
        }  # fmt: skip
        if len(changed) > 1 and len(excess) == len(changed):  # nothing tells them apart: the longest is the likeliest
            likely = max(changed, key=lambda name: self._belief(name, "up_delay").value)
            changed = {likely: changed[likely]}
        for name, found in excess.items():
            for way in ("up_delay", "down_delay"):
                belief = self._belief(name, way)
                if name in changed:
                    belief.hear(max(0.0, belief.value + changed[name] / 2), now_s)
                elif not any(found):
                    belief.confirm(now_s)
