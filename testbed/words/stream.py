"""The text of tokens that come one by one, as far as it is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"  # stands for bytes that are no UTF-8, or not yet


class TextStream:
    """Turns ids into text, piece by piece; the pieces together are the text of all ids at once.

    A character may be spread over several tokens, and how a token is written may depend on the one before it. So the
    last known tokens are decoded again together with the new ones, and what ends in the middle of a character is held
    back.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []  # of the last piece, and those held back
        self._known = 0  # how many of them have been given as text

    def add(self, token: int) -> str:
        """The text that is certain with this token and was not before."""
        self._ids.append(token)
        piece, whole = self._piece()
        if not (piece and whole):
            return ""
        del self._ids[: self._known]
        self._known = len(self._ids)
        return piece

    def end(self) -> str:
        """The text that was held back."""
        return self._piece()[0]

    def _piece(self) -> tuple[str, bool]:
        """The text of the new ids, and whether it ends at the end of a character."""
        text = self._decode(self._ids)
        before = self._decode(self._ids[: self._known])
        return text[len(before) :], not text.endswith(_BROKEN)
