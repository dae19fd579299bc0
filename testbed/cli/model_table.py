"""How `models list` and `models show` show models to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from testbed.cli.show import echo, print_table
from testbed.units import format_bytes

LISTED = ("float16", "q8_0", "q4_0")
SHOWN = ("default", "float32", *LISTED)
"""The formats of weights that there is room for; bfloat16 takes what float16 takes, and JSON has all."""

BLOCKS = {
    "head": "head(l,g)", "proj": "proj(l)", "ffn": "ffn(l)", "embed": "at the source", "all": "all weights",
}  # fmt: skip


def show_list(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the presets in 80 columns."""
    columns = {
        "name": "preset", "family": "family", "layers": "layers", "heads": "heads", "parameters": "params",
        "context": "context", **{name: name for name in LISTED},
    }  # fmt: skip
    shown = [
        {
            **row,
            "heads": f"{row['heads']}/{row['kv_heads']}",
            "parameters": _count(row["parameters"]),
            **{name: _gibibytes(row["bytes"].get(name)) for name in LISTED},
        }
        for row in rows
    ]
    print_table(columns, shown)
    echo("Heads: query heads / KV heads. The last columns: GiB of weights in that format.")


def show_model_table(model: Mapping[str, Any]) -> None:
    """Print what `testbed.running.models.show_model` returns."""
    origin = f", {model['repository']} on the Hugging Face hub" if model["repository"] else ""
    echo(f"{model['name']}: family {model['family']}{origin}")
    heads = f"{model['layers']} layers of {model['heads']} heads in {model['kv_heads']} KV groups"
    echo(f"{model['parameters']:,} parameters; {heads}.")
    widths = f"Width {model['width']}, heads of {model['head_dim']}, FFN {model['ffn_width']}"
    echo(f"{widths}; a vocabulary of {model['vocab']}.")
    window = f", of which a token sees the last {model['window']}" if model["window"] else ""
    echo(f"Context: {model['context']} tokens{window}. Weights: {model['weights'] or 'none here; random in a run'}.")
    if model["formats"]:
        echo(f"Matrices in the file: {'; '.join(map(_matrices, model['formats']))}.")
    formats = [name for name in SHOWN if name in model["bytes"]]
    echo()
    _show_blocks(model, formats)
    echo()
    caches = (f"{format_bytes(model['kv_bytes_per_token'][name])} in {name}" for name in ("float32", "float16"))
    echo(f"Each token adds to the KV caches {' or '.join(caches)}.")
    flops = f"{model['flops_per_token'] / 1e9:.4g} GFLOP"
    echo(f"The token at length {model['length']} takes {flops}. It reads caches in {model['kv_format']}.")
    echo()
    _show_boards(model, formats)
    echo(f"So many boards hold the model at length {model['length']}, if all their memory is free for it.")


def _show_blocks(model: Mapping[str, Any], formats: Sequence[str]) -> None:
    def sizes(bytes_in: Mapping[str, float]) -> dict[str, str]:
        return {name: format_bytes(bytes_in[name]) for name in formats}

    rows = [{"block": BLOCKS[row["kind"]], "count": row["count"]} | sizes(row["bytes"]) for row in model["blocks"]]
    rows.append({"block": "all weights"} | sizes(model["bytes"]))
    rows.append({"block": "read by a token"} | sizes(model["read_bytes_per_token"]))
    print_table({"block": "block", "count": "number", **_headings(formats)}, rows)


def _show_boards(model: Mapping[str, Any], formats: Sequence[str]) -> None:
    rows = [
        {"board": row["board"], "memory": format_bytes(row["memory_bytes"])}
        | {name: "-" if row["needed"][name] is None else row["needed"][name] for name in formats}
        for row in model["boards"]
    ]
    print_table({"board": "board", "memory": "memory", **_headings(formats)}, rows)


def _matrices(row: Mapping[str, Any]) -> str:
    """`210 in q4_1`, or `210 in q4_k, held in float32`."""
    held = "" if row["held"] == row["stored"] else f", held in {row['held']}"
    return f"{row['tensors']} in {row['stored']}{held}"


def _headings(formats: Sequence[str]) -> dict[str, str]:
    return {name: "by default" if name == "default" else name for name in formats}


def _count(number: int) -> str:
    """`135M` from 134515008."""
    return f"{number / 1e9:.3g}B" if number >= 1e9 else f"{number / 1e6:.3g}M"


def _gibibytes(size: int | None) -> str:
    """`14.96` from 16063365120; `<0.01` for what is smaller."""
    if size is None:
        return "-"
    gibibytes = size / 2**30
    return "<0.01" if gibibytes < 0.01 else f"{gibibytes:5.2f}"
