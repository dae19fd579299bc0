"""What figures show: artists by their gid, and texts."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.text import Text


def drawn(figure: Figure, gid: str) -> list[Artist]:
    """The artists with this gid."""

    def walk(artist: Artist) -> Iterator[Artist]:
        for child in artist.get_children():
            yield child
            yield from walk(child)

    return list(dict.fromkeys(artist for artist in walk(figure) if artist.get_gid() == gid))


def texts(figure: Figure) -> list[str]:
    """All texts that are not empty."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]
