"""The keys of a Hugging Face checkpoint's config.json that every model family reads in the same way.

A family names the keys that it reads. Any other key could change the arithmetic, so it is refused unless it is in the
table of those that don't. Each mistake is a ConfigError of one sentence that names the file, the key and the value.
This module knows no family.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
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

# Keys of any family with the only value that can be computed.
_FIXED: dict[str, Any] = {
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "cross_attention_hidden_size": None,
    "partial_rotary_factor": 1.0,
    "rope_interleaved": False,
    "use_mrope": False,
}
# Keys that don't change the logits: names and versions, training, generation, other heads, speed and precision.
_HARMLESS = frozenset({
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "transformers.js_config",
    "architectures", "model_type", "tokenizer_class", "prefix", "finetuning_task", "task_specific_params",
    "is_llama_config", "unsloth_version", "unsloth_fixed", "attention_dropout", "attn_pdrop", "embd_pdrop",
    "resid_pdrop", "hidden_dropout", "initializer_range", "gradient_checkpointing", "bos_token_id",
    "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "unk_token_id", "max_length",
    "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
    "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
    "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript", "use_bfloat16",
    "tf_legacy_loss", "is_decoder", "chunk_size_feed_forward", "pretraining_tp", "reorder_and_upcast_attn",
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "n_ctx", "id2label",
    "label2id", "_num_labels", "num_labels", "problem_type", "classifier_dropout", "summary_type",
    "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
})  # fmt: skip


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


def refuse_other_arithmetic(
    config: Mapping[str, Any], fixed: Mapping[str, Any], read: Collection[str], origin: str
) -> None:
    """Raise ConfigError for a key that changes what the decoder would have to compute, or that could.

    `fixed` has the only values that can be computed of some keys, and `read` the keys that the family reads.
    """
    for key, wanted in {**_FIXED, **fixed}.items():
        if config.get(key) is not None and config[key] != wanted:
            raise ConfigError(f"{origin}: {key} is {shown(config[key])}, but only {shown(wanted)} can be computed")
    known = {*_FIXED, *fixed, *read, *_PACKED, *_DTYPE_KEYS, *_HARMLESS}
    for key, value in config.items():
        if key in known or value is None:
            continue
        if "expert" in key or "moe" in key:
            raise ConfigError(
                f"{origin}: {shown(key)} is {shown(value)}, but a mixture of experts cannot be computed: choose a "
                "dense model"
            )
        raise ConfigError(
            f"{origin}: {shown(key)} is {shown(value)}, and no family here knows what that changes: remove the key if "
            "it leaves the arithmetic alone"
        )


def read_count(
    config: Mapping[str, Any], key: str, origin: str, alias: str | None = None, default: int | None = None
) -> int:
    """A dimension of the model; `alias` is another name of the key. Raises ConfigError."""
    other = alias or key
    if key in config and other in config and config[key] != config[other]:
        raise ConfigError(
            f"{origin}: {key} is {shown(config[key])} and {other} {shown(config[other])}, but both mean the same"
        )
    value = config.get(key, config.get(other))
    value = default if value is None else value
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


def read_choice(config: Mapping[str, Any], key: str, default: str, known: Mapping[str, Any], origin: str) -> Any:
    """What `known` has for the value of a key; raises ConfigError."""
    value = config.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise ConfigError(
            f"{origin}: {key} is {shown(value)}, but only {' or '.join(map(repr, known))} can be computed"
        )
    return known[value]


def read_number(config: Mapping[str, Any], key: str, origin: str, default: float | None = None) -> float:
    """A positive number; raises ConfigError."""
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf or value > 1e300:
        raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be a positive number")
    return float(value)


def read_epsilon(config: Mapping[str, Any], key: str, default: float, origin: str) -> float:
    """The epsilon of a norm; raises ConfigError."""
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise ConfigError(f"{origin}: {key} is {shown(value)}, but it must be a number between 0 and 1, such as 1e-05")
    return float(value)
