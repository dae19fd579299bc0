"""The section of an experiment about its model: which one, in which formats, and whether its weights are real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from testbed.experiment.sections import Strict
from testbed.models.presets import PRESETS, Packaged, packaged_shape, presets
from testbed.shape import LARGEST_DIMENSION, ModelShape, WeightFormats, reshaped
from testbed.strict_yaml import suggest

LARGEST_SEED = 2**53 - 1  # the largest whole number that every reader of JSON keeps exactly
PlainFormat = Literal["float32", "bfloat16", "float16"]


class ModelSpec(Strict):
    """The model: a preset, or the absolute path of a checkpoint's folder or file.

    Its weights are random, drawn from `seed`, if `random` says so or if they are not known: most presets are a shape
    and no weights.
    """

    preset: str | None = None
    path: str | None = None
    random: bool = False  # random weights, though there are others
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    format: Literal["float32", "bfloat16", "float16", "q8_0", "q4_0", "q4_1"] | None = None  # of all matrices
    kv_format: PlainFormat = "float32"
    wire_format: PlainFormat = "float32"  # of what travels between devices
    # These change the size of a preset.
    layers: int | None = Field(default=None, ge=1, le=LARGEST_DIMENSION)
    heads: int | None = Field(default=None, ge=1, le=LARGEST_DIMENSION)
    vocab: int | None = Field(default=None, ge=256, le=LARGEST_DIMENSION)  # with random weights, a token is a byte

    @model_validator(mode="after")
    def _check(self) -> ModelSpec:
        if (self.preset is None) == (self.path is None):
            raise ValueError("give either preset or path, one of the two")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"there is no preset {self.preset!r}{suggest(self.preset, PRESETS)}")
        resized = self.layers or self.heads or self.vocab
        if self.preset is None and resized:
            raise ValueError("layers, heads and vocab resize a preset; a checkpoint has its own")
        if self._packaged is not None and resized:
            raise ValueError(
                f"layers, heads and vocab resize a preset, but the weights of {self.preset} have one size: "
                "add random: true"
            )
        if self.preset is not None:
            self.shape()
        return self

    def shape(self) -> ModelShape:
        """The model's dimensions and formats, from the preset or the checkpoint."""
        if self.preset is None:
            from testbed.decoder.checkpoint import read_shape

            shape = read_shape(Path(str(self.path)))
        else:
            shape = reshaped(packaged_shape(self.preset), self.layers, self.heads, self.vocab)
        weights = shape.weights if self.format is None else WeightFormats.all_in(self.format)
        return replace(shape, weights=weights, kv_format=self.kv_format, wire_format=self.wire_format)

    @property
    def files(self) -> Path | None:
        """Where the weights and the tokenizer are; None for random weights, for which a token of a prompt is a byte.

        None also for a preset whose package is not installed: planning and simulating need it as little.
        """
        if self._packaged is not None:
            return self._packaged.find()
        if self.path is None or self.random:
            return None
        from testbed.decoder.checkpoint import model_files

        return model_files(Path(self.path))

    def required_files(self) -> Path | None:
        """What `files` is; raises EnvironmentLacks if a package with the weights is not installed."""
        return self.files if self._packaged is None else self._packaged.require(str(self.preset))

    @property
    def missing_package(self) -> str | None:
        """The package that the weights come with, if it is not installed; else None."""
        return None if self._packaged is None or self._packaged.find() else self._packaged.package

    @property
    def weights_told(self) -> str:
        """Where the weights are from, in words."""
        if self.random or (self.path is None and self._packaged is None):
            return f"random, drawn from seed {self.seed}, so that the tokens mean nothing"
        if self._packaged is None:
            return f"from {self.path}"
        return f"from the Python package {self._packaged.package} {self._packaged.version}"

    @property
    def _packaged(self) -> Packaged | None:
        """The package that the weights come with; None if there is none, or if they are to be random."""
        return None if self.preset is None or self.random else presets()[self.preset].packaged
