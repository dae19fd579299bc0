"""Almost valid JSON documents: valid ones in which some values, keys or bytes were changed."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

ODD_TEXTS = ["", "\x00", "\x1b[2J", "x" * 300, "../..", "/", "\udc80", "é", "nan", "-", "\n"]
ODD_NUMBERS = [0, -1, 1.5, 2**31, 2**63, 2**64, 10**30, 1e308, float("nan"), float("inf"), -float("inf")]
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.integers(),
    st.floats(),
    st.sampled_from(ODD_TEXTS),
    st.text(max_size=8),
    st.sampled_from([[], {}, [[]], {"": None}, [{}], [1, "a"], {"ok": 1.5}]).map(copy.deepcopy),
)
"""A value that is of another kind than expected, or out of all proportion."""


@st.composite
def broken(draw: st.DrawFn, good: Any, other: st.SearchStrategy[Any] = ODD) -> Any:
    """A copy of `good` with up to three places changed: replaced by `other`, left out, renamed or doubled."""
    document = copy.deepcopy(good)
    for _ in range(draw(st.integers(0, 3))):
        place, parent = [], None
        inner = document
        while isinstance(inner, dict | list) and inner:
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            parent, key = inner, draw(st.sampled_from(keys))
            place.append(key)
            inner = inner[key]
            if draw(st.integers(0, 3)) == 0:
                break
        if parent is None:
            return draw(other)
        change = draw(st.integers(0, 4))
        if change == 0:
            del parent[place[-1]]
        elif change == 1 and isinstance(parent, dict):
            parent[draw(st.sampled_from([*ODD_TEXTS, "extra"]))] = parent.pop(place[-1])
        elif change == 2 and isinstance(parent, list):
            parent.append(copy.deepcopy(inner))
        else:
            parent[place[-1]] = draw(other)
    return document


def as_bytes(document: Any) -> bytes:
    """The document as JSON bytes; lone surrogates stay in it, so that the file is not valid UTF-8."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def mangled(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes of a file that may have been cut off, overwritten or doubled."""
    change = draw(st.integers(0, 5))
    at = draw(st.integers(0, len(content)))
    if change == 0:
        return content[:at]
    if change == 1:
        return content[:at] + draw(st.binary(max_size=12)) + content[at:]
    if change == 2:
        other = draw(st.binary(min_size=1, max_size=12))
        return content[:at] + other + content[at + len(other) :]
    if change == 3:
        return content + content[at:]
    return content


GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"",
            b"\xef\xbb\xbf{}",
            b"[" * 20_000,
            b'{"a":' * 20_000,
            b"1" * 5000,
            b"\xff\xfe\x00",
            b'"\\ud800"',
            b"NaN",
            b"null",
            b"\x00" * 4096,
            b"-1e999999999",
        ]
    ),
)
"""Whole files that nothing of ours has written."""


def files_like(good: Any) -> st.SearchStrategy[bytes]:
    """The content of a JSON file, which is mostly almost valid."""
    almost = broken(good).map(as_bytes)
    return st.one_of(almost, almost, almost.flatmap(mangled), GARBAGE)
