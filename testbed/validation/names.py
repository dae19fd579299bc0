"""Models, formats, devices, links and engines, read as people write them in tables; None for what cannot be read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from testbed.models.presets import PRESETS
from testbed.shape import ModelShape
from testbed.validation.assumptions import DEFAULT, Assumptions

GIB = 2**30
MOST_BOARDS = 128  # of one row
_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")

# A model's name, in lower case with single spaces -> a preset. The first that is found counts.
_MODELS: tuple[tuple[str, str], ...] = (
    (r"tiny ?llama", "tinyllama-1.1b"),
    (r"smollm2? (135m|360m|1\.7b)", r"smollm2-\1"),
    (r"deepseek r1 (?:distill )?llama 8b", "llama-3.1-8b"),
    (r"deepseek r1 (?:distill )?llama 70b", "llama-3.1-70b"),
    (r"deepseek r1 (?:distill )?(?:qwen )?(1\.5|7|14)b", r"qwen2.5-\1b"),
    (r"deepseek r1 8b", "llama-3.1-8b"),
    (r"llama ?3\.2 (1|3)b", r"llama-3.2-\1b"),
    (r"llama ?3\.1 8b", "llama-3.1-8b"),
    (r"llama ?3 8b", "llama-3-8b"),
    (r"llama ?3(?:\.[13])? 70b", "llama-3.1-70b"),
    (r"llama ?2 (7|13|70)b", r"llama-2-\1b"),
    (r"(?:vicuna|code ?llama) (7|13)b", r"llama-2-\1b"),
    (r"mistral 7b", "mistral-7b"),
    (r"qwen ?2\.5 (0\.5|1\.5|7|14)b", r"qwen2.5-\1b"),
    (r"qwen ?3 (0\.6|4|8|14)b", r"qwen3-\1b"),
)
_EXPERTS = re.compile(r"a\d+b\b|\bmoe\b|mixtral|grok|\d+x\d+b")

# Bits per weight, with scales. Of K-quants it is that of llama.cpp's mixtures for models of this size.
_BITS: tuple[tuple[str, str, float], ...] = (
    (r"q4_?k_?m", "q4_k_m", 4.85), (r"q4_?k_?s", "q4_k_s", 4.58), (r"q5_?k_?m", "q5_k_m", 5.69),
    (r"q3_?k_?m", "q3_k_m", 3.91), (r"q6_?k", "q6_k", 6.56), (r"q2_?k", "q2_k", 3.0),
    (r"q_?4[_ ]?0", "q4_0", 4.5), (r"q_?4[_ ]?1", "q4_1", 5.0), (r"q_?8[_ ]?0", "q8_0", 8.5),
    (r"q_?5[_ ]?0", "q5_0", 5.5), (r"q_?5[_ ]?1", "q5_1", 6.0),
    (r"bf_?16|bfloat16", "bfloat16", 16.0), (r"f(?:p|loat)?_?16", "float16", 16.0),
    (r"f(?:p|loat)?_?32", "float32", 32.0),
)  # fmt: skip
_OLLAMA_DEFAULT = ("q4_k_m", 4.85)


@dataclass(frozen=True)
class Formats:
    """The formats of a row: of weights, with bits per weight, of messages and of KV caches, where they are said."""

    weights: str
    bits: float
    exchange_bytes: float | None  # per value
    kv_bytes: int | None


@dataclass(frozen=True)
class Board:
    """One board: what it is called, and its memory and cores where they are known."""

    name: str
    ram_bytes: int | None = None
    cores: int | None = None

    @property
    def family(self) -> str:
        """The board's chip, where several boards have the same."""
        return _FAMILIES.get(self.name, self.name)

    def __str__(self) -> str:
        return self.name + (f" {self.ram_bytes / GIB:g}GB" if self.ram_bytes else "")


_FAMILIES = {
    "raspberry pi 500+": "raspberry pi 5", "raspberry pi 500": "raspberry pi 5", "raspberry pi cm5": "raspberry pi 5",
    "raspberry pi 400": "raspberry pi 4", "raspberry pi cm4": "raspberry pi 4",
}  # fmt: skip
_CORES = {"raspberry pi 5": 4, "raspberry pi 4": 4}  # product briefs: BCM2712 and BCM2711 have four cores


@dataclass(frozen=True)
class Wire:
    """The link of each device: bit/s, the seconds of one way, and where the seconds are from."""

    rate_bps: float
    message_s: float
    provenance: str


def squeeze(text: str) -> str:
    """The text in lower case, with single spaces in place of spaces, dashes, underscores and colons."""
    return re.sub(r"[\s_:-]+", " ", text.lower()).strip()


def read_model(text: str) -> ModelShape | None:
    """The shape of the model that a row names."""
    name = squeeze(text)
    if _EXPERTS.search(name):
        return None
    for pattern, preset in _MODELS:
        match = re.search(rf"(?<![\w.]){pattern}(?![\w.]*\d)", name)
        if match:
            return PRESETS[match.expand(preset)]
    return None


def read_formats(text: str) -> Formats | None:
    """The formats that a row names; None if it does not say how weights are held."""
    words = text.lower()
    exchange = kv = None
    for found in re.finditer(r"(q80|q8_0|f32|fp32|f16|fp16)\s*(exchange|sync|kv|cache|buffer)", words):
        size = 34 / 32 if found[1].startswith("q8") else 4.0 if found[1].endswith("32") else 2.0
        if found[2] in ("kv", "cache"):
            kv = int(size)
        else:
            exchange = size
    rest = re.sub(r"(q80|q8_0|f32|fp32|f16|fp16)\s*(exchange|sync|kv|cache|buffer)", "", words)
    for pattern, name, bits in _BITS:
        if re.search(rf"(?<![a-z0-9])(?:{pattern})(?![0-9])", rest):
            return Formats(name, bits, exchange, kv)
    if "ollama" in words:
        return Formats(*_OLLAMA_DEFAULT, exchange, kv)
    return Formats("q4_0", 4.5, exchange, kv) if exchange is not None else None


def read_boards(text: str) -> tuple[Board | None, ...]:
    """The board of each device, the root first; None for a device that is not named. Empty if there is no number."""
    found: list[Board | None] = []
    for part in re.split(r"\s\+\s|\s(?:and|&|plus)\s+(?=\d)", text):
        count, name = _count(part)
        if not 0 < count <= MOST_BOARDS:
            return ()
        found += [_board(name)] * count
    return tuple(found)


def _count(text: str) -> tuple[int, str]:
    """(number of boards, what they are): `2 x Raspberry Pi 5`, `two RPi 5`, `Pi 5 ×2`; 0 for a number that is none."""
    text = re.sub(rf"^\s*({'|'.join(_WORDS)})\b", lambda word: str(_WORDS.index(word[1].lower()) + 1), text, flags=re.I)
    text = re.sub(r"^(.*)\s[x×*]\s*(\d{1,6})\s*$", r"\2 x \1", text)
    match = re.match(r"\s*(\d{1,6})\s*(?:[Xx×*]\s+|[x×*](?=[^\da-z]))(.+)", text) or re.match(
        r"\s*(\d{1,6})\s+((?:devices|nodes|boards|raspberry|rpi|raspi|pi)\b.*)", text, re.I
    )
    if match:
        return int(match[1]), match[2]
    inner = re.search(r"(\d{1,6})\s*(?:x|×)\s*\d+\s*G", text)
    if inner:
        return int(inner[1]), text
    return 0 if re.match(r"\s*[-+]?\d[\d.,]*\s*[x×*]", text, re.I) else 1, text


def _board(text: str) -> Board | None:
    ram = re.search(r"(\d{1,6}(?:\.\d+)?)\s*(?:GB|GiB)\b", text)
    cores = re.search(r"(\d{1,6})\s*cores", text)
    name = re.split(r"[,(]", text)[0]
    name = re.sub(r"\b\d+(?:\.\d+)?\s*(?:GB|GiB)\b|\bcpu\b|\bcluster\b|\bmodel b\b", "", name, flags=re.IGNORECASE)
    name = re.sub(r"\s+", " ", name.lower()).strip()
    name = re.sub(r"^(?:rpi|raspi|(?:raspberry ?)?pi) ?(?=[45])", "raspberry pi ", name)
    name = re.sub(r"^(raspberry pi [45])b$", r"\1", name)
    if not name or re.match(r"(?:any|devices|nodes|not stated|unknown)\b", name):
        return None
    board = Board(name, round(float(ram[1]) * GIB) if ram else None)
    return replace(board, cores=int(cores[1]) if cores else _CORES.get(board.family))


def read_threads(*texts: str) -> int | None:
    """The number of threads that one of the texts says."""
    for text in texts:
        match = re.search(r"nthreads\s*=?\s*(\d{1,6})\b(?!\s*/)", text) or re.search(r"\b(\d{1,6})\s+threads", text)
        if match and int(match[1]):
            return int(match[1])
    return None


def read_context(*texts: str) -> float | None:
    """The position of the token that the texts tell of: `at context 125`, or half of `16 samples`."""
    for text in texts:
        match = re.search(r"context\s*=?\s*(\d{1,7})", text.lower())
        if match:
            return float(match[1])
    for text in texts:
        match = re.search(r"(\d{1,7})\s+(?:samples|tokens)\b", text.lower())
        if match:
            return int(match[1]) / 2
    return None


def read_link(text: str, assumptions: Assumptions = DEFAULT) -> Wire | None:
    """The link of each device; None for `none` and a radio. A wired link without a rate is taken to be 1 Gbit/s."""
    words = text.lower()
    if re.match(r"none\b", words) or re.search(r"wi-?fi|wlan|wireless|802\.11|bluetooth", words):
        return None
    match = re.search(r"(\d+(?:\.\d+)?)\s*(gbe|gbit|gbps|gb/s|g\b|mbit|mbps|mb/s|base|gigabit)", words)
    if match:
        rate = float(match[1]) * (1e6 if match[2].startswith(("m", "base")) else 1e9)
    else:
        rate = 1e8 if "fast ethernet" in words else 1e9
    if not 0 < rate < 1e15:
        return None
    cloud = "cloud" in words or "vm network" in words
    if cloud:
        return Wire(rate, assumptions.cloud_message_s, "source")
    return Wire(rate, assumptions.lan_message_s, "default")


@dataclass(frozen=True)
class Program:
    """What computed: an engine's name and, of distributed-llama, its version."""

    name: str  # dllama, llama.cpp, ollama, llamafile
    version: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.name + (" " + ".".join(map(str, self.version)) if self.version else "")


NEWEST = (0, 16)  # taken where a row of distributed-llama names no version
_SCHEMES = ((r"early 2024 scheme", (0, 1)), (r"all-?reduce style", (0, 7, 1)))


def read_program(*texts: str) -> Program | None:
    """The program that the texts name; its formats are called Q40 and Q80 by distributed-llama alone."""
    words = " ; ".join(texts).lower()
    match = re.search(r"(?:dllama|distributed-llama)[ -]?v?(\d{1,6}(?:\.\d{1,6})+)", words)
    if match:
        return Program("dllama", tuple(int(part) for part in match[1].split(".")))
    for pattern, version in _SCHEMES:
        if re.search(pattern, words):
            return Program("dllama", version)
    for name in ("ollama", "llamafile", "llama.cpp"):
        match = re.search(rf"{re.escape(name)}(?:\s+v?(\d{{1,6}}(?:\.\d{{1,6}})+)(?!-))?", words)
        if match:
            return Program(name, tuple(int(part) for part in (match[1] or "").split(".") if part))
    if re.search(r"\bdllama\b|distributed-llama|\bq40\b", words):
        return Program("dllama", NEWEST)
    return None
