"""Which token a worker's pass belongs to.

Workers number their passes without a gap. Without a loss, the passes of the prefill come first and then one for each
token. A recovery adds passes that rebuild KV caches, and repeats the pass that it interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from testbed.transport.messages import Span


class PassNumbers:
    """Numbers passes as in a run without losses; `prefill_chunks` is the number of passes of the prefill."""

    def __init__(self, prefill_chunks: int) -> None:
        self._chunks = prefill_chunks
        self._eras: list[tuple[int, int]] = [(0, 0)]  # (first pass, what is to be taken off it), oldest first
        self._ends: list[int] = []  # of each era but the last: the first pass that belongs to no token

    def restart(self, tokens_done: int, next_pass: int, rebuilding: int) -> None:
        """Begin anew with token `tokens_done` after `rebuilding` passes, the first of which is `next_pass`."""
        wanted = tokens_done + self._chunks - 1 if tokens_done else 0
        first, shift = self._eras[-1]
        self._ends.append(max(first, min(next_pass, wanted + shift)))
        self._eras.append((next_pass + rebuilding, next_pass + rebuilding - wanted))

    def repeat(self, tokens_done: int) -> None:
        """Let the next pass, or the whole prefill, be that of the last of these tokens, which is known already."""
        self.restart(tokens_done, self._eras[-1][0], 1 if tokens_done > 1 else self._chunks)

    def of(self, number: int) -> int | None:
        """The pass as in a run without losses; None for one that was interrupted or rebuilt caches."""
        era = max(index for index, (first, _) in enumerate(self._eras) if first <= number)
        if era < len(self._ends) and number >= self._ends[era]:
            return None
        return number - self._eras[era][1]

    def renumbered(self, spans: Iterable[Span]) -> list[Span]:
        """The spans of passes that belong to tokens, numbered as in a run without losses."""
        if not self._ends:
            return list(spans)
        found = ((span, self.of(span.step)) for span in spans)
        return [msgspec.structs.replace(span, step=number) for span, number in found if number is not None]
