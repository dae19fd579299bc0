"""The model families that the decoder can compute.

A family is a module that knows its config.json and the names of its tensors in safetensors files. To add one, write
such a module and add a line to `FAMILIES`. If its blocks compute something new, `testbed.decoder.store` learns it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from testbed.decoder.config_json import CONFIG
from testbed.decoder.families import gpt2, llama
from testbed.decoder.pieces import Part, Piece
from testbed.errors import ConfigError
from testbed.shape import ModelShape
from testbed.strict_yaml import shown

Dims = tuple[int, ...]


class Family(Protocol):
    """What the readers of a checkpoint ask of a family. Names of tensors are those in safetensors files."""

    TITLE: str  # the family's name in errors
    TOKENS: str  # the token embedding, without the prefix
    LM_HEAD: str

    def shape_from_config(self, config: Mapping[str, Any], name: str, origin: str) -> ModelShape:
        """The shape that a config.json describes; raises ConfigError naming `origin`, the key and the value."""

    def prefix_of(self, names: Iterable[str]) -> str:
        """The prefix that all these names have, except for the LM head."""

    def is_weight(self, name: str) -> bool:
        """Whether this tensor is a weight; older versions also stored constants."""

    def tensors(self, shape: ModelShape) -> Iterator[tuple[str, Dims]]:
        """The name, without a prefix, and the dimensions in the file of each tensor except for the LM head."""

    def locate(self, shape: ModelShape, piece: Piece, layer: int) -> list[Part]:
        """The parts of stored tensors, without a prefix, whose rows, one part after the other, are those of a piece."""


FAMILIES: Mapping[str, Family] = {"gpt2": gpt2, "llama": llama, "mistral": llama, "qwen2": llama, "qwen3": llama}
"""`model_type` of a config.json -> family."""


def shape_from_config(config: Mapping[str, Any], name: str = "model", origin: str = CONFIG) -> ModelShape:
    """The shape that a config.json describes; raises ConfigError naming `origin`, the key and the value."""
    return _family_of(config, origin).shape_from_config(config, name, origin)


def _family_of(config: Mapping[str, Any], origin: str) -> Family:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(map(repr, FAMILIES))
        raise ConfigError(f"{origin}: model_type is {shown(kind)}, but it must be one of {known}")
    return FAMILIES[kind]
