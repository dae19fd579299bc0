"""The keys of a Hugging Face checkpoint's config.json that every model family reads in the same way.

Each mistake is a ConfigError of one sentence that names the file, the key and the value. This module knows no family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.errors import ConfigError
from testbed.formats import FORMATS
from testbed.shape import LARGEST_DIMENSION
from testbed.strict_yaml import shown

CONFIG = "config.json"
JSON_BYTES = 8 * 2**20  # the most of config.json or an index; the index of a model of 671 billion parameters has 9 MB

# Keys that say that the weights are not plain tensors in safetensors files, and why not.
_PACKED = {
    "quantization_config": "are quantised",
    "compression_config": "are compressed",
    "transformers_weights": "are in another file than model.safetensors",
}
_DTYPE_KEYS = ("dtype", "torch_dtype")
_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")


def refuse_packed_weights(config: Mapping[str, Any], origin: str) -> None:
    """Raise ConfigError if the config says that the weights are quantised or have a type that we cannot read."""
    for key, why in _PACKED.items():
        if config.get(key) is not None:
            raise ConfigError(
                f"{origin}: {key} is {shown(config[key])}, so the weights {why}; they must be plain "
                "float32, float16, bfloat16 or float64 tensors in model.safetensors"
            )
    for key in _DTYPE_KEYS:
        value = config.get(key)
        if value is not None and str(value).removeprefix("torch.") not in _DTYPES:
            raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be one of {', '.join(_DTYPES)}")


def config_format(config: Mapping[str, Any]) -> str:
    """The format of the weights that belong to a config, as far as it says so; else float32."""
    value = next((config[key] for key in _DTYPE_KEYS if config.get(key) is not None), "auto")
    name = str(value).removeprefix("torch.")
    return name if name in FORMATS else "float32"


def refuse_other_arithmetic(config: Mapping[str, Any], fixed: Mapping[str, Any], origin: str) -> None:
    """Raise ConfigError if a key of `fixed` has another value than the one that the decoder computes."""
    for key, wanted in fixed.items():
        if config.get(key, wanted) != wanted:
            raise ConfigError(f"{origin}: {key} is {shown(config[key])}, but only {wanted!r} can be computed")


def read_count(config: Mapping[str, Any], key: str, origin: str, alias: str | None = None) -> int:
    """A dimension of the model; `alias` is another name of the key. Raises ConfigError."""
    other = alias or key
    if key in config and other in config and config[key] != config[other]:
        raise ConfigError(
            f"{origin}: {key} is {shown(config[key])} and {other} {shown(config[other])}, but both mean the same"
        )
    value = config.get(key, config.get(other))
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_DIMENSION:
        wanted = f"a whole number from 1 to {LARGEST_DIMENSION}"
        raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be {wanted}")
    return value


def read_flag(config: Mapping[str, Any], key: str, default: bool, origin: str) -> bool:
    """A key that is true or false; raises ConfigError."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be true or false")
    return value


def read_epsilon(config: Mapping[str, Any], key: str, origin: str) -> float:
    """The epsilon of a norm; raises ConfigError."""
    value = config.get(key, 1e-5)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be a number between 0 and 1, such as 1e-05")
    return float(value)
