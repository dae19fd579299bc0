"""Almost valid YAML documents: shipped ones with changed values, keys, aliases, tags or characters."""

from __future__ import annotations

from typing import Any

import yaml
from documents import ODD, broken, mangled
from hypothesis import strategies as st

QUANTITIES = [
    "0 bit/s",
    "1 bit/s",
    "50 Mbit/s",
    "1e400 bit/s",
    "1e15 bit/s",
    "0 s",
    "2 ms",
    "1e9 s",
    "1 us",
    "0 B",
    "1 B",
    "64 MiB",
    "1024 TiB",
    "1e-300 B",
    "3 GB/s",
    "1e-9 B/s",
    "8 GFLOP/s",
    "1e18 FLOP/s",
    "1 %",
    "100 %",
    "-1 s",
    "1.5 x model",
    "0 x model",
    "1e9 x model",
    "١ s",
    "1" * 150 + " B",
]
WORDS = [
    "a",
    "b",
    "a-b",
    "b-c",
    "s1",
    "backhaul",
    "link/a",
    "link/*",
    "device/*",
    "device/a",
    "star",
    "ring",
    "mesh",
    "random",
    "two-tier",
    "paper",
    "fluctuation",
    "outage",
    "cellular-walk",
    "memory-squeeze",
    "memory",
    "loop",
    "token",
    "time",
    "gpt2",
    "tiny",
    "llama-2-7b",
    "..",
    "/dev/zero",
    "/",
    "head(0,*)",
    "raspberry-pi-4",
    "x" * 300,
    "\x1b[2J",
    "on",
    "~",
]
TEXTS = [
    "!!int x",
    "!!float ''",
    "!!bool 3",
    "!!binary aGk=",
    "!!set {a}",
    "!!python/name:os.system",
    "!x y",
    "&a [*a]",
    "&a {<<: *a}",
    "*a",
    "[" * 60 + "]" * 60,
    "{" * 30,
    "1:30",
    "0x10",
    "0o7",
    "1_000",
    ".inf",
    ".nan",
    "-.inf",
    "1e999",
    "9" * 70,
    "2001-01-01",
    "=",
    "<<: {a: 1}",
    "? [a]\n: b",
    "- - -",
    "|\n  x",
    "'",
    '"\\ud800"',
    "%TAG ! x",
    "---",
    "@",
    "`",
    "{a: 1, a: 2}",
    "[&x {b: 1}, *x, {<<: *x}, {<<: [*x, *x]}]",
    "null",
    "yes",
    "",
    "#",
    "\t",
]
OTHER = st.one_of(st.sampled_from(QUANTITIES), st.sampled_from(WORDS), st.integers(-2, 1100), ODD)
"""What may stand in a value's place: of the right kind more often than not."""

Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def dumped(document: Any) -> str:
    """The document as YAML; it may contain characters that YAML does not allow, which is intended."""
    text: str = yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text


@st.composite
def yaml_like(draw: st.DrawFn, goods: list[Any]) -> bytes:
    """The content of a YAML file: one of `goods` with up to three changed values and a changed text."""
    document = draw(st.sampled_from(goods))
    document = draw(broken(document, OTHER))
    try:
        text = dumped(document)
    except (yaml.YAMLError, UnicodeError):
        text = repr(document)
    change = draw(st.integers(0, 9))
    if change == 0:  # a value that only YAML can express
        lines = text.split("\n")
        at = draw(st.integers(0, len(lines) - 1))
        head, colon, _ = lines[at].partition(":")
        lines[at] = f"{head}{colon} {draw(st.sampled_from(TEXTS))}"
        text = "\n".join(lines)
    content = text.encode("utf-8", "surrogatepass")
    return draw(mangled(content)) if change == 1 else content


def paths_of(document: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The keys of all values in a document in the form of overrides."""
    items = enumerate(document) if isinstance(document, list) else ()
    pairs = document.items() if isinstance(document, dict) else items
    found = [above] if above else []
    for key, inner in pairs:
        found += paths_of(inner, (*above, str(key)))
    return found


def overrides_of(document: Any, known: list[str]) -> st.SearchStrategy[list[str]]:
    """Up to three texts for `--set`: mostly a key of the document or one of `known`, with some value."""
    places = [".".join(path) for path in paths_of(document)] + known
    key = st.one_of(
        st.sampled_from(places),
        st.builds("{}.{}".format, st.sampled_from(places), st.sampled_from([*WORDS, "0", "9" * 20, "zz.memory"])),
        st.text(max_size=6),
    )
    value = st.one_of(
        st.sampled_from(QUANTITIES),
        st.sampled_from(WORDS),
        st.sampled_from(TEXTS),
        st.integers(-2, 300).map(str),
        st.builds("[{}, {}]".format, st.sampled_from(QUANTITIES), st.sampled_from(WORDS)),
        st.builds("{{{}: {}}}".format, st.sampled_from(WORDS), st.sampled_from(QUANTITIES)),
        st.text(max_size=6),
    )
    return st.lists(st.builds("{}={}".format, key, value), min_size=1, max_size=3)
