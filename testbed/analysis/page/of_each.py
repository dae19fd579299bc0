"""The figures of one run: memory against budgets, the rates of links, and where the blocks are."""

from __future__ import annotations

import itertools

import pandas as pd
from matplotlib.colors import to_hex

from testbed.analysis.load import Run
from testbed.analysis.metrics import MIB
from testbed.analysis.page.chart import WIDE, ZOOM, Chart, Spec, coloured, quantity, tips
from testbed.analysis.plots.heads import MOST_BLOCKS, held_blocks
from testbed.analysis.plots.style import DARK, devices_of, palette, slug

MOST_SAMPLES = 300  # of a device; between them, only changes of its budget are kept
PANEL, COLUMNS = (210, 110), 4  # width and height in pixels, and panels beside each other
ROW_PIXELS, MAP_PIXELS = 9.0, 420.0  # of a block, and of all blocks at most
# Column of the table `devices` -> what it is called, and its colour.
MEMORY = {
    "ledger_bytes": ("in use", "#0173b2"), "predicted_bytes": ("blocks need", "#de8f05"),
    "budget_bytes": ("budget", DARK), "ballast_bytes": ("ballast", "#949494"),
}  # fmt: skip
RATES = {"up": "#0173b2", "down": "#de8f05"}
BELOW = {"domain": list(RATES), "range": [[1, 0], [5, 5]]}  # dashes, so that a line is seen below one of the same rate
ROOM = 1.05  # of the largest rate, so that its line is not cut in half at the upper edge
SECONDS = "Emulated time (s)"


def charts_of_run(run: Run, name: str) -> list[Chart]:
    """All figures of one run for which it has data; `name` tells it from other runs."""
    found = (_placement(run, name), _memory(run, name), _links(run, name))
    return [chart for chart in found if chart is not None]


def _panels(field: str, order: list[str], inner: Spec, shared: bool) -> Spec:
    """A panel for each value of a column."""
    width, height = PANEL
    return {
        "data": {"name": "rows"},
        "facet": {"field": field, "type": "nominal", "title": None, "sort": order},
        "columns": COLUMNS,
        "spec": {"width": width, "height": height} | inner,
        "resolve": {"scale": {"y": "shared" if shared else "independent"}},
    }


def _memory(run: Run, name: str) -> Chart | None:
    rows = []
    for device, own in run.devices.sort_values("t_s", kind="stable").groupby("device", sort=False):
        every = max(1, -(-len(own) // MOST_SAMPLES))
        changed = own["budget_bytes"].ne(own["budget_bytes"].shift()) | own["ballast_bytes"].ne(
            own["ballast_bytes"].shift()
        )
        kept = own[(pd.Series(range(len(own)), index=own.index) % every == 0) | changed.fillna(False)]
        for column, (what, _) in MEMORY.items():
            sizes = kept[column]
            if sizes.notna().any() and (what != "ballast" or (sizes.fillna(0) > 0).any()):
                size = sizes.astype("Float64") / MIB
                rows.append(pd.DataFrame({"device": device, "what": what, "t_s": kept["t_s"], "MiB": size}))
    if not rows:
        return None
    line = {"type": "line", "interpolate": "step-after", "size": 1.5, "clip": True, "point": "transparent"}
    inner = {
        "params": [ZOOM],
        "mark": line,
        "encoding": {
            "x": quantity("t_s", SECONDS),
            "y": quantity("MiB", "Memory (MiB)", scale={"domainMin": 0, "padding": 4, "nice": True}),
            "color": coloured("what", dict(MEMORY.values())),
            "tooltip": tips({"device": "device", "what": "what"}, {"t_s": "s", "MiB": "MiB"}),
        },
    }
    order = devices_of(run)
    spec = _panels("device", order, inner, len(order) <= COLUMNS)
    shown = "The budget is for what blocks need, weights and KV caches; a ballast lowers it."
    if not run.simulated:
        shown += (
            " In use was measured, and is more by what the worker itself needs, for which each device has a reserve."
        )
    return Chart(f"memory-{slug(name)}", f"Memory: {name}", shown, pd.concat(rows), spec, run.simulated)


def _links(run: Run, name: str) -> Chart | None:
    if run.links.empty:
        return None
    end = max(float(run.links["t_s"].max()), float((run.tokens["start_s"] + run.tokens["latency_s"]).max()))
    rows = []
    links = run.links.sort_values("t_s", kind="stable")
    for (device, direction), own in links.groupby(["device", "direction"], sort=False):
        asked = own["requested_bps"].ne(own["requested_bps"].shift())
        kept = own[asked | own["readback_bps"].fillna(-1).ne(own["readback_bps"].fillna(-1).shift())]
        last = kept.iloc[[-1]].assign(t_s=end)
        both = pd.concat([kept, last])
        rows.append(
            pd.DataFrame(
                {
                    "link": device,
                    "direction": direction,
                    "t_s": both["t_s"],
                    "asked_mbps": both["requested_bps"] / 1e6,
                    "read_back_mbps": both["readback_bps"] / 1e6,
                    "delay_ms": both["delay_s"] * 1e3,
                }
            )
        )
    most = max(float(links["requested_bps"].max()) / 1e6, 1e-6)
    colour = coloured("direction", RATES)
    dash = {"field": "direction", "type": "nominal", "title": None, "scale": BELOW, "legend": colour["legend"]}
    inner = {
        "params": [ZOOM],
        "mark": {"type": "line", "interpolate": "step-after", "size": 1.5, "clip": True, "point": "transparent"},
        "encoding": {
            "x": quantity("t_s", SECONDS),
            "y": quantity("asked_mbps", "Mbit/s", scale={"zero": True, "domainMax": ROOM * most}),
            "color": colour,
            "strokeDash": dash,
            "tooltip": tips(
                {"link": "link", "direction": "direction"},
                {"t_s": "s", "asked_mbps": "asked Mbit/s", "read_back_mbps": "kernel says Mbit/s",
                 "delay_ms": "delay ms"},
            ),
        },
    }  # fmt: skip
    order = list(dict.fromkeys([*devices_of(run), *links["device"]]))
    spec = _panels("link", order, inner, True)
    shown = "The rate that each direction of a link is asked for; hovering shows what the kernel says, and the delay."
    return Chart(f"links-{slug(name)}", f"Links: {name}", shown, pd.concat(rows), spec, run.simulated)


def _placement(run: Run, name: str) -> Chart | None:
    held = held_blocks(run)
    if held.empty:
        return None
    colours = {device: to_hex(colour) for device, colour in palette(devices_of(run)).items()}
    few = held["block"].nunique() <= MOST_BLOCKS
    x: Spec = {"x": quantity("from", "Token"), "x2": {"field": "until"}, "color": coloured("device", colours, "device")}
    if few:
        order = held["block"].drop_duplicates().tolist()
        height = min(MAP_PIXELS, ROW_PIXELS * len(order))
        y: Spec = {
            "field": "block", "type": "nominal", "sort": order, "title": "Blocks, in the order of the layers",
            "axis": {"labels": len(order) * ROW_PIXELS <= MAP_PIXELS, "ticks": False},
        }  # fmt: skip
        shown_first = {"block": "block", "device": "on"}
        mark, rows, size = {"type": "rect", "clip": True}, held, height
        shown = "Each block's device; a colour is a device, and a row that changes colour is a block that moved."
    else:
        rows = _counted(held)
        y = quantity("blocks", "Blocks", stack="zero")
        shown_first = {"device": "device", "blocks": "blocks"}
        mark, size = {"type": "bar", "clip": True}, 220.0
        shown = "How many blocks each device holds."
    tooltip = tips(shown_first | {"from": "from token", "until": "until token"}, {})
    spec = WIDE | {"height": size, "mark": mark, "encoding": x | {"y": y, "tooltip": tooltip}}
    return Chart(f"placement-{slug(name)}", f"Placement: {name}", shown, rows, spec, run.simulated)


def _counted(held: pd.DataFrame) -> pd.DataFrame:
    """How many blocks each device holds between two tokens at which any block moved."""
    edges = sorted({*held["from"], *held["until"]})
    rows = []
    for begin, end in itertools.pairwise(edges):
        now = held[(held["from"] <= begin) & (held["until"] >= end)]
        counts = now.groupby("device", sort=False)["block"].count()
        rows += [{"device": name, "from": begin, "until": end, "blocks": int(n)} for name, n in counts.items()]
    return pd.DataFrame(rows)
