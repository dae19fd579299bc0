"""`testbed topologies`: what networks there are, and what is in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.cli.names import FileOrName
from testbed.cli.options import FILE_OUT
from testbed.cli.show import echo, json_option, print_json, print_table
from testbed.cli.topology_table import show_description
from testbed.errors import ConfigError
from testbed.files import write_text
from testbed.units import format_bytes

FORMS = {".mmd": "mermaid", ".md": "mermaid", ".dot": "graphviz", ".gv": "graphviz", ".png": "png", ".svg": "svg",
         ".pdf": "pdf"}  # fmt: skip
TEXTS = ("mermaid", "graphviz")


@click.group()
def command() -> None:
    """List the bundled topologies, show or draw one, or draw a new one from a seed.

    Example: testbed topologies show star4
    """


@command.command("list")
@json_option
def list_topologies(as_json: bool) -> None:
    """List the bundled topologies.

    Example: testbed topologies list --json
    """
    from testbed.topologies.model import list_bundled

    rows = list_bundled()
    if as_json:
        print_json(rows)
        return
    shown = [row | {"memory": format_bytes(row["memory_bytes"])} for row in rows]
    headings = {"name": "name", "shape": "shape", "devices": "devices", "source": "source", "memory": "memory"}
    print_table(headings | {"path": "file"}, shown)


@command.command("show")
@click.argument("topology", metavar="NAME|FILE", type=FileOrName("topology"))
@json_option
def show_topology(topology: Path, as_json: bool) -> None:
    """Show the devices and links of a bundled topology or of a file.

    Example: testbed topologies show topologies/star4.yaml
    """
    from testbed.bundled import find_file
    from testbed.topologies.model import Topology, describe

    description = describe(Topology.load(find_file("topology", topology)))
    if as_json:
        print_json(description)
        return
    show_description(description)


@command.command("graph")
@click.argument("topology", metavar="NAME|FILE", type=FileOrName("topology"))
@click.option("--format", "form", type=click.Choice(["mermaid", "graphviz", "png", "svg", "pdf"]),
              help="The format [default: by the suffix of --out, else mermaid].")  # fmt: skip
@FILE_OUT
def graph_topology(topology: Path, form: str | None, out: Path | None) -> None:
    """Draw a bundled topology or a file: as Mermaid or Graphviz text, or as a picture.

    Example: testbed topologies graph two-tier6 --out two-tier6.png
    """
    from testbed.bundled import find_file
    from testbed.topologies.graph import graphviz, mermaid
    from testbed.topologies.model import Topology

    form = form or (FORMS.get(out.suffix.lower()) if out is not None else "mermaid")
    if form is None:
        raise ConfigError(f"--out {out}: its suffix must be one of {', '.join(FORMS)}; or say --format")
    found = Topology.load(find_file("topology", topology))
    if form in TEXTS:
        text = mermaid(found) if form == "mermaid" else graphviz(found)
        if out is None:
            echo(text, nl=False)
            return
        write_text(out, text)
    elif out is None:
        raise ConfigError(f"--format {form} is a picture: say where it goes, with --out {found.name}.{form}")
    else:
        from testbed.files import make_folder, refuse_special
        from testbed.topologies.figure import draw

        refuse_special(out)
        make_folder(out.parent)
        draw(found, out, form)
    echo(f"{out}: {found.name}, {len(found.devices)} devices")


@command.command("generate")
@click.argument("kind")
@click.option("--devices", type=click.IntRange(min=1), required=True, help="How many devices.")
@click.option("--model", default="gpt2", show_default=True, help="The preset that must fit on it.")
@click.option(
    "--length", type=click.IntRange(min=1), default=128, show_default=True, help="Prompt and generated tokens."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same network.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="A setting of the generator, e.g. memory.")
@FILE_OUT
def generate_one(
    kind: str, devices: int, model: str, length: int, seed: int, settings: tuple[str, ...], out: Path | None
) -> None:
    """Draw a topology from a seed: paper (a star), two-tier or mesh, with log-normal memory and speeds.

    Example: testbed topologies generate paper --devices 4 --set 'memory=2 x model' --seed 3 --out four.yaml
    """
    import yaml

    from testbed.experiment.instances import model_need
    from testbed.experiment.overrides import apply_override, parse_override
    from testbed.models.presets import PRESETS, packaged_shape
    from testbed.placement.blocks import WHOLE
    from testbed.strict_yaml import suggest
    from testbed.topologies.generate import generate_topology
    from testbed.topologies.model import Topology

    if model not in PRESETS:
        raise ConfigError(f"--model {model}: there is no such preset{suggest(model, PRESETS)}")
    given: dict[str, Any] = {"devices": devices}
    for setting in settings:
        apply_override(given, parse_override(setting))
    need = model_need(packaged_shape(model), WHOLE, length)
    topology = Topology.from_dict(generate_topology(kind, given, seed, need, f"generate {kind}"), f"generate {kind}")
    text = yaml.safe_dump(topology.to_dict(), sort_keys=False, default_flow_style=None, width=1000)
    if out is None:
        echo(text, nl=False)
    else:
        write_text(out, text)
        echo(f"{out}: {len(topology.devices)} devices")
