"""The schema of an experiment: one YAML file that contains everything on which a run depends.

The schema is strict: an unknown key, a missing file or an impossible value is an error of one sentence, before anything
is started. A loaded experiment contains its topology, traces and prompt, so the copy in a run's manifest can be
replayed. This module does not know which policies exist, nor how a run is carried out.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, InstanceOf, ValidationError

from testbed.bundled import find_file
from testbed.errors import ConfigError
from testbed.experiment.cuts import check_cuts, check_rows
from testbed.experiment.language import encoded, language_of
from testbed.experiment.model_section import LARGEST_SEED, ModelSpec
from testbed.experiment.overrides import Override, apply_override, parse_override
from testbed.experiment.reading import (
    ALTERNATIVES,
    drop_alternatives,
    inline_files,
    read_partition,
    read_traces,
    refuse_other_kinds,
)
from testbed.experiment.sections import MessageSpec, PromptSpec, RecoverySpec, SamplingSpec, Strict, typed
from testbed.placement.blocks import (
    MOST_BLOCKS,
    WHOLE,
    Block,
    Partition,
    blocks_of,
    count_blocks,
    pinned_bytes,
    vocab_rows,
)
from testbed.placement.patterns import matches
from testbed.placement.policies.renamed import present_name
from testbed.shape import ModelShape
from testbed.strict_yaml import read_mapping, refuse_unknown_keys, require_mapping, shown, suggest
from testbed.topologies.model import Device, Topology
from testbed.topologies.shapes import WIFI
from testbed.traces.model import Trace, TraceSet
from testbed.units import parse_bandwidth, parse_duration
from testbed.words.sampling import Sampling

MOST_TOKENS = 10**9  # a model's positions are the limit that matters

# Stands for the topology while the entries are read on which a generated topology depends.
_NOWHERE = Topology("none", "star", "none", (Device("none", 1.0, 1.0, 1, 1.0, None),))


@dataclass(frozen=True)
class _Names:
    """The names of files and overrides for errors."""

    origin: str
    topology: str  # the topology's own file, or its place in the experiment file
    overrides: tuple[Override, ...] = ()

    def of(self, *where: str, base: str | None = None) -> str:
        """The name of the file (or `base`), with the last override that touched the value at `where`."""
        touching = [override.text for override in self.overrides if override.touches(where)]
        return (base or self.origin) + (f" with --set {touching[-1]}" if touching else "")


def _all_named(value: object) -> None:
    """Refuse names that are no text, like `on` and 1: JSON would write them as text."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{shown(name)} is no name of an option, unless it is written in quotes")
            _all_named(inner)
    elif isinstance(value, list):
        for inner in value:
            _all_named(inner)


def finite(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse numbers and names that a manifest, which is JSON, cannot hold. A date goes through, and is told later."""
    _all_named(options)
    try:
        json.dumps(options, allow_nan=False, default=str)
    except ValueError as error:
        raise ValueError("infinite numbers and NaN are no values of options") from error
    return options


class Experiment(Strict):
    """Everything on which a run depends, in SI units; `load` and `from_dict` make it, and it never changes."""

    name: str = Field(min_length=1, max_length=200)
    model: ModelSpec
    prompt: PromptSpec
    tokens: int = Field(ge=1, le=MOST_TOKENS)
    ignore_eos: bool = False  # generate `tokens` tokens even if the model ends its text before
    sampling: SamplingSpec | None = None  # None: always the token with the largest logit
    interval: int = Field(default=8, ge=1, le=MOST_TOKENS)  # λ, tokens between two decisions
    partition: InstanceOf[Partition] = Partition()
    topology: InstanceOf[Topology]
    traces: InstanceOf[TraceSet]
    trace_clock: Literal["token", "time"] = "token"
    policy: Annotated[str, AfterValidator(present_name)] = Field(default="paper-search", min_length=1)
    policy_options: Annotated[dict[str, Any], AfterValidator(finite)] = Field(default_factory=dict)
    placement: dict[str, str] | None = None  # of policy `static`: block pattern -> device; later entries win
    weights: Literal["staged", "shipped"] = "staged"
    migration: Literal["stop", "live", "auto"] = "stop"  # whether tokens stop, or go on while caches are copied
    delay: Literal["auto", "netem", "transport"] = "auto"
    dilation: float = Field(default=1.0, ge=1, le=1e6, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    grace: int = Field(default=2, ge=0, le=MOST_TOKENS)  # intervals until an announced memory decrease is enforced
    # By how many byte/s memory shrinks; None: at once.
    ramp: Annotated[float | None, typed(parse_bandwidth)] = Field(default=None, gt=0, allow_inf_nan=False)
    prefill_chunk: int = Field(default=32, ge=1, le=MOST_TOKENS)  # tokens
    observation: Literal["oracle", "measured"] = "oracle"  # policies see the traces' values, or what runs show of them
    probe_share: float = Field(default=0.01, ge=0, le=0.5, allow_inf_nan=False)  # of a link's time, if `measured`
    compute: Literal["paced", "native", "quota"] = "paced"
    switch: Literal["linuxbridge", "openvswitch"] = "linuxbridge"
    charge_decision: bool = False
    cost: Literal["schedule", "paper"] = "schedule"  # what a simulated run takes: `paper` is the paper's formula
    # Host seconds for one decision.
    decision_limit: Annotated[float, typed(parse_duration)] = Field(default=60.0, gt=0, le=1e6, allow_inf_nan=False)
    recovery: RecoverySpec = Field(default_factory=RecoverySpec)  # what becomes of a run that loses a device

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """The experiment in a YAML file or of a bundled name, with `key=value` overrides applied in order.

        Paths in the file are relative to the file, and paths in overrides to the current directory. Raises ConfigError
        naming the file or override, the key and the value.
        """
        path = find_file("experiment", path)
        raw = {"name": path.stem} | read_mapping(path)
        refuse_other_kinds(raw, path)
        topology = inline_files(raw, path.parent, str(path)) or f"{path}: topology"
        applied = tuple(parse_override(text) for text in overrides)
        for override in applied:
            drop_alternatives(raw, override.key)
            apply_override(raw, override)
            topology = inline_files(raw, Path(), f"--set {override.text}") or topology
        return cls._build(raw, _Names(str(path), topology, applied))

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], origin: str = "experiment") -> Experiment:
        """The experiment in a mapping that `to_dict` wrote, or in the form of a file; raises ConfigError.

        Paths are relative to the current directory.
        """
        raw = {"name": origin} | copy.deepcopy(require_mapping(mapping, origin, "an experiment"))
        topology = inline_files(raw, Path(), origin) or f"{origin}: topology"
        return cls._build(raw, _Names(origin, topology))

    @classmethod
    def _build(cls, raw: dict[str, Any], names: _Names) -> Experiment:
        for override in names.overrides:
            refuse_unknown_keys({override.key[0]: None}, cls.model_fields, f"--set {override.text}", "an experiment")
        refuse_unknown_keys(raw, cls.model_fields, names.origin, "an experiment")
        for key in ("model", "prompt", "tokens", "topology"):
            if key not in raw:
                raise ConfigError(f"{names.origin}: the key {key!r} is missing")
        values = raw | {"partition": read_partition(raw.get("partition", {}), names.of("partition"))}
        draft = cls._validated(values | {"topology": _NOWHERE, "traces": TraceSet()}, names)
        where = names.of("topology", base=names.topology)
        topology = Topology.from_dict(draft._drawn(raw["topology"], where, names), where)
        generate = partial(draft._trace_drawn, topology)
        traces = read_traces(raw.get("traces", []), topology, names.of("traces"), generate)
        experiment = cls._validated(values | {"topology": topology, "traces": traces}, names)
        experiment._check_model(names)
        experiment._check_partition(names)
        experiment._check_cost(names)
        experiment._check_placement(names)
        experiment._check_emulation(names)
        return experiment

    @classmethod
    def _validated(cls, values: dict[str, Any], names: _Names) -> Experiment:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _config_error(error, names) from error

    def _drawn(self, entry: Any, where: str, names: _Names) -> Any:
        """The entry of the topology; if it has `generate`, the topology drawn for this experiment's model and seed."""
        if not isinstance(entry, Mapping) or "generate" not in entry:
            return entry
        from testbed.experiment.instances import model_need
        from testbed.topologies.generate import generate_topology

        self._check_model(names)
        self._check_partition(names)
        given = {key: value for key, value in entry.items() if key != "generate"}
        need = model_need(self.shape, self.partition, self._longest)
        return generate_topology(entry["generate"], given, self.seed, need, where)

    def _trace_drawn(self, topology: Topology, entry: Mapping[str, Any], index: int, where: str) -> Trace:
        """The trace that an entry with `generate` describes for this experiment's model, seed and length."""
        from testbed.experiment.instances import generate_trace

        kept = pinned_bytes(self.shape, self.partition)
        return generate_trace(entry, topology, kept, self.seed, self.tokens, index, where)

    @property
    def _longest(self) -> int:
        """The sequence length at the last token; an upper bound if only the checkpoint's tokenizer knows it."""
        return min(self.most_prompt_tokens + self.tokens - 1, self.shape.positions)

    def to_dict(self) -> dict[str, Any]:
        """The whole experiment, ready for JSON; `from_dict` turns it into an equal experiment."""
        written = self.model_dump(exclude={"model", "prompt", "partition", "topology", "traces"})
        return {
            "name": self.name,
            "model": self.model.model_dump(exclude_none=True),
            "prompt": self.prompt.model_dump(mode="json", exclude_none=True),
            "partition": asdict(self.partition),
            "topology": self.topology.to_dict(),
            "traces": self.traces.to_dict(),
            **copy.deepcopy(written),
        }

    @cached_property
    def shape(self) -> ModelShape:
        """The model's dimensions, from the preset or the checkpoint."""
        return self.model.shape()

    @property
    def seeded_sampling(self) -> Sampling | None:
        """How tokens are drawn, with the run's seed; None for always the token with the largest logit."""
        return None if self.sampling is None else self.sampling.seeded(self.seed)

    @property
    def prompt_tokens(self) -> int | None:
        """The number of prompt tokens; None for words and a checkpoint, where only its tokenizer knows it."""
        if self.prompt.ids is not None:
            return len(self.prompt.ids)
        return len(self.prompt.plain) if self.model.files is None else None

    @property
    def most_prompt_tokens(self) -> int:
        """The number of prompt tokens, or an upper bound: a tokenizer makes at most one token of a byte.

        A chat template adds text of its own, so a conversation is tokenised, if the model has a tokenizer.
        """
        files = self.model.files
        if self.prompt.chat is not None and files is not None and language_of(files).source is not None:
            return len(encoded(language_of(files), self.prompt.words, files))
        return self.prompt_tokens or len(self.prompt.plain)

    @cached_property
    def needs_netem(self) -> str | None:
        """The name of a link with loss or jitter, in the topology or by a trace; None if there is none."""
        for cable in self.topology.links:
            if cable.link.needs_netem:
                return cable.name
        for trace in self.traces.traces:
            for (target, quantity), rows in trace.rows.items():
                if quantity == "loss" and any(value for _, value in rows):
                    return target.removeprefix("link/")
        return None

    def _check_model(self, names: _Names) -> None:
        """Check the checkpoint, and that the prompt and the tokens fit into the model's positions and vocabulary."""
        if self.model.path is not None:
            from testbed.decoder.checkpoint import check_checkpoint

            check_checkpoint(Path(self.model.path))
        check_rows(self.shape, names.of("model", "format"))
        self._check_size(names.of("model"), WHOLE, "fewer layers or heads")
        for index in self.prompt.ids or ():
            if index >= self.shape.vocab:
                raise ConfigError(
                    f"{names.of('prompt')}: prompt.ids has {index}, but the model's ids end at {self.shape.vocab - 1}"
                )
        length = (self.prompt_tokens or 1) + self.tokens
        if length > self.shape.positions:
            raise ConfigError(
                f"{names.of('tokens')}: prompt and tokens make {length} positions, but the model "
                f"{self.shape.name} can take at most {self.shape.positions}"
            )

    def _check_partition(self, names: _Names) -> None:
        """Check that the FFN shards are equal whole blocks, and that no shard of the LM head is empty."""
        self._check_size(names.of("partition"), self.partition, "fewer shards")
        width, shards = self.shape.ffn_width, self.partition.ffn_shards
        if width % shards:
            raise ConfigError(
                f"{names.of('partition', 'ffn_shards')}: partition.ffn_shards is {shards}, which does not divide "
                f"{width}, the FFN width of {self.shape.name}"
            )
        if self.sampling is not None and self.partition.vocab_shards > 1:
            raise ConfigError(
                f"{names.of('sampling')}: sampling needs all logits on one device, but partition.vocab_shards is "
                f"{self.partition.vocab_shards}, whose shards send a choice each: use 1, or leave sampling out"
            )
        check_cuts(self.shape, self.partition, partial(names.of, "partition"))
        words, vocab = self.shape.vocab, self.partition.vocab_shards
        if (vocab - 1) * vocab_rows(self.shape, self.partition) >= words:
            raise ConfigError(
                f"{names.of('partition', 'vocab_shards')}: partition.vocab_shards is {vocab}, which leaves a shard "
                f"without any of the {words} words of {self.shape.name}"
            )

    def _check_size(self, where: str, partition: Partition, remedy: str) -> None:
        """Check that there are not more blocks than a policy can place."""
        blocks = count_blocks(self.shape, partition)
        if blocks > MOST_BLOCKS:
            raise ConfigError(
                f"{where}: {self.shape.name} would be cut into {blocks} blocks, but at most {MOST_BLOCKS} can be "
                f"placed: use {remedy}"
            )

    def _check_cost(self, names: _Names) -> None:
        """Check that the paper's formula is asked only about what it knows: one layer in whole blocks."""
        if self.cost == "paper" and (self.shape.layers > 1 or self.partition != WHOLE):
            raise ConfigError(
                f"{names.of('cost')}: cost: paper knows one decoder layer of whole blocks, but {self.shape.name} has "
                f"{self.shape.layers} layers in the partition {self.partition}: use model.layers: 1 and no partition"
            )
        if self.cost == "paper" and self.observation == "measured":
            raise ConfigError(
                f"{names.of('observation')}: observation is measured, but cost: paper has no messages to "
                "measure: use observation: oracle or cost: schedule"
            )

    def _check_emulation(self, names: _Names) -> None:
        """Check that the settings of links and devices can be emulated together."""
        if self.topology.shape == WIFI and self.switch != "linuxbridge":
            raise ConfigError(
                f"{names.of('switch')}: switch is {self.switch}, but only a Linux bridge can be a wifi's access "
                "point: use switch: linuxbridge"
            )
        if self.delay == "transport" and self.needs_netem:
            raise ConfigError(
                f"{names.of('delay')}: link {self.needs_netem} has loss or jitter, which delay: transport cannot make; "
                "use delay: auto or netem"
            )
        paused = [target for trace in self.traces.traces for target, quantity in trace.rows if quantity == "pause"]
        if paused and self.trace_clock == "token":
            raise ConfigError(
                f"{names.of('trace_clock')}: a trace pauses {paused[0]}, which would never end on the token clock, "
                "because a paused device generates no token; use trace_clock: time"
            )

    def _check_placement(self, names: _Names) -> None:
        """Check that each entry of a fixed placement matches a block and names a device."""
        devices = [device.name for device in self.topology.devices]
        blocks = blocks_of(self.shape, self.partition)
        for pattern, device in (self.placement or {}).items():
            where = names.of("placement", pattern)
            if device not in devices:
                hint = suggest(device, devices)
                raise ConfigError(f"{where}: placement puts {pattern} on {device!r}, which is no device{hint}")
            if not any(matches(pattern, block) for block in blocks):
                known = ", ".join(("head(layer,index)", *dict.fromkeys(map(_form, blocks[self.shape.kv_heads :]))))
                raise ConfigError(
                    f"{where}: placement has {pattern!r}, which is no block of {self.shape.name} in this partition; "
                    f"write {known} or a pattern like 'head(0,*)'"
                )


def _form(block: Block) -> str:
    """The form in which blocks of this kind are written, like `ffn(layer)`."""
    kind, _, rest = str(block).partition("(")
    _, comma, index = rest[:-1].partition(",")
    return f"{kind}(layer{comma}{'index' if index.isdigit() else index})"


_KEYS: dict[str, Iterable[str]] = {
    "model": ModelSpec.model_fields,
    "prompt": ALTERNATIVES["prompt"],
    "prompt.chat": MessageSpec.model_fields,
    "sampling": SamplingSpec.model_fields,
    "recovery": RecoverySpec.model_fields,
}
"""Section -> its keys. The keys of the experiment itself are checked before."""


def _config_error(error: ValidationError, names: _Names) -> ConfigError:
    """The first mistake as one sentence; a misspelt key comes before the key that is missing because of it."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = tuple(str(part) for part in first["loc"])
    key, message = ".".join(where), first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        section = ".".join(part for part in where[:-1] if not part.isdecimal())
        message = f"{where[-1]!r} is not a key of {section}{suggest(where[-1], _KEYS[section])}"
    elif first["type"] == "value_error":
        message = f"{key}: {message}"
    else:
        wanted = (message[0].lower() + message[1:]).replace("a valid integer", "a whole number")
        message = f"{key} is {shown(first['input'])}, but {wanted.replace('input should', 'it should')}"
    return ConfigError(f"{names.of(*where)}: {message}")
