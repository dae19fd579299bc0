import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from figures import drawn, texts
from synthetic_run import first_placement, make_run

from testbed import analysis
from testbed.analysis import Run, plots
from testbed.analysis.page.of_runs import charts_of_runs
from testbed.analysis.plots import heads
from testbed.analysis.plots.ledger import OWN
from testbed.runlog.folder import RunLog

RUNS_FIGURES = ("token_latency", "latency_ecdf", "predicted_vs_measured")
RUN_FIGURES = ("memory", "placement_map", "link_rates")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    parent = tmp_path_factory.mktemp("runs")
    return [analysis.load(make_run(parent, policy)) for policy in ("static", "resource-aware")]


@pytest.fixture(scope="module")
def static(runs: list[Run]) -> Run:
    return runs[0]


@pytest.fixture(scope="module")
def aware(runs: list[Run]) -> Run:
    return runs[1]


def test_token_latency_has_a_line_per_run_with_a_point_per_decode_token(runs: list[Run]) -> None:
    figure = plots.token_latency(runs)
    static, aware = drawn(figure, "latency")
    assert (len(static.get_xdata()), len(aware.get_xdata())) == (47, 95)
    np.testing.assert_allclose(aware.get_ydata(), 1e3 * runs[1].tokens["latency_s"][1:])
    assert [line.get_label() for line in (static, aware)] == ["static", "resource-aware"]
    assert static.get_color() != aware.get_color()


def test_token_latency_marks_migrations_trace_steps_stalls_and_the_kill(runs: list[Run]) -> None:
    figure = plots.token_latency(runs)
    assert sorted(x for marks in drawn(figure, "migrations") for x in marks.get_xdata()) == [40, 48, 72]
    assert {line.get_xdata()[0] for line in drawn(figure, "trace-step")} == {40, 48}
    (cross,) = drawn(figure, "oom")
    assert list(cross.get_xdata()) == [47]  # the last token that the killed run made
    main, strip = figure.axes
    assert len(strip.patches) == 3  # one bar per stall
    assert {"b: link 10 Mbit/s", "c: memory 72 MiB", "static: OOM kill on c"} <= set(texts(figure))
    assert main.get_ylabel() == "Token latency (ms)" and strip.get_xlabel() == "Token"


def test_labels_of_kills_at_the_same_place_do_not_lie_on_one_another(tmp_path: Path) -> None:
    killed = [analysis.load(make_run(tmp_path / name, "static")) for name in ("first", "second")]
    figure = plots.token_latency(killed)
    labels = [text for text in figure.findobj(matplotlib.text.Annotation) if "OOM kill" in text.get_text()]
    figure.canvas.draw()
    first, second = (label.get_window_extent() for label in labels)
    assert not first.overlaps(second)


@pytest.mark.parametrize(("count", "lowest"), [(10, 0.0), (35, 0.9)])
def test_many_trace_steps_are_drawn_without_labels_and_very_many_as_a_rug(
    tmp_path: Path, count: int, lowest: float
) -> None:
    folder = make_run(tmp_path, "static", tokens=40, finished=False)
    log = RunLog(folder)
    for step in range(1, count + 1):
        log.event("trace_applied", step / 10, step=step, target="link/a", quantity="up", value=step * 1e6)
    log.close()
    figure = plots.token_latency(analysis.load(folder))
    steps = drawn(figure, "trace-step")
    assert len(steps) == count and all(min(line.get_ydata()) >= lowest for line in steps)
    assert not any("Mbit/s" in text for text in texts(figure))


def test_of_two_experiments_it_is_said_whose_trace_steps_are_drawn(aware: Run) -> None:
    other = replace(aware, manifest={**aware.manifest, "experiment_name": "other"}, events=aware.events[:0])
    figure = plots.token_latency([other, aware])
    assert "trace step of quickstart" in texts(figure) and not any("Mbit/s" in text for text in texts(figure))
    assert len(drawn(figure, "trace-step")) == len(drawn(plots.token_latency(aware), "trace-step"))


def test_of_many_runs_like_ones_are_a_mean_in_a_band_and_stalls_can_be_seen(tmp_path: Path) -> None:
    policies = ("resource-aware", "static")
    runs = [analysis.load(make_run(tmp_path, policy, seed=seed)) for seed in range(5) for policy in policies]
    figure = plots.token_latency(runs)
    aware, static = drawn(figure, "latency")
    own = [run.decoded["latency_s"] for run in runs if run.policy == "resource-aware"]
    assert aware.get_ydata()[0] == pytest.approx(1e3 * np.mean([latency.iloc[0] for latency in own]))
    assert (len(aware.get_xdata()), len(static.get_xdata())) == (95, 47)
    assert static.get_label() == "static, 5 of 5 ended early"
    assert len(drawn(figure, "range")) == 2 and not drawn(figure, "migrations")
    assert all(bar.get_linewidth() == 0 and bar.get_width() >= 0.38 for bar in figure.axes[1].patches)


def test_figures_of_simulated_runs_say_so_and_draw_no_achieved_rates(aware: Run) -> None:
    simulated = replace(aware, manifest={**aware.manifest, "provenance": "simulated"})
    assert simulated.simulated and not aware.simulated
    for name in plots.FIGURES:
        assert len(drawn(getattr(plots, name)(simulated), "simulated")) == 1, name
        assert not drawn(getattr(plots, name)(aware), "simulated")
    rates = plots.link_rates(simulated)
    assert drawn(rates, "requested") and not drawn(rates, "achieved") and not drawn(rates, "ceiling")


def test_two_stalls_before_one_token_add_up(aware: Run) -> None:
    (stalled,) = aware.decisions.index[aware.decisions["stall_s"] > 0][:1]
    twice = replace(aware, decisions=pd.concat([aware.decisions, aware.decisions.loc[[stalled]]]))
    alone, both = ([bar.get_height() for bar in drawn(plots.token_latency(run), "stall")] for run in (aware, twice))
    assert both[0] == pytest.approx(2 * alone[0]) and both[1:] == alone[1:]


def test_blocks_are_counted_by_device_where_devices_are_many(aware: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MOST_DEVICES", 3)
    (mesh,) = drawn(plots.placement_map(aware), "counts")
    counts = mesh.get_array()
    assert counts.shape[0] == 4 and set(counts.sum(axis=0)) == {12 * 14}


def test_the_ecdf_has_a_line_per_policy_that_a_killed_run_ends_below_one(runs: list[Run]) -> None:
    figure = plots.latency_ecdf(runs)
    (axes,) = figure.axes
    curves = [line for line in axes.lines if line.get_gid() is None]
    assert [len(curve.get_xdata()) for curve in curves] == [47 + 1, 95 + 1]
    for curve, end in zip(curves, (47 / 95, 1), strict=True):
        assert (curve.get_ydata()[0], curve.get_ydata()[-1]) == (0, end)
        assert np.all(np.diff(curve.get_ydata()) > 0)
    assert [len(marks.get_xdata()) for marks in drawn(figure, "percentiles")] == [0, 2]
    (cross,) = drawn(figure, "unfinished")
    assert cross.get_ydata() == [47 / 95]
    assert "static (47 of 95 tokens)" in texts(figure)


def test_memory_has_a_panel_per_device_and_says_what_is_above_a_budget(aware: Run) -> None:
    figure = plots.memory(aware)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"Device {name}" for name in "abcd"]
    samples = (aware.devices["device"] == "a").sum()
    for gid in ("budget", "ledger-line", "predicted"):
        assert [len(line.get_xdata()) for line in drawn(figure, gid)] == [samples] * 4, gid
    budgets = drawn(figure, "budget")
    assert [line.get_ydata()[-1] for line in budgets] == [200, 128, 72, 176]
    assert len(drawn(figure, "ballast")) == 1  # only c is squeezed
    assert not drawn(figure, "oom")
    assert OWN not in figure.get_supxlabel()
    devices = aware.devices.assign(
        predicted_bytes=aware.devices["budget_bytes"], ledger_bytes=aware.devices["budget_bytes"] + 1
    )
    assert OWN in plots.memory(replace(aware, devices=devices)).get_supxlabel()


def test_memory_marks_the_kill_on_the_device_that_died(static: Run) -> None:
    figure = plots.memory(static)
    (line,) = drawn(figure, "oom")
    assert line.axes.get_title(loc="left") == "Device c"
    killed = static.events.loc[static.events["kind"] == "oom_kill", "t_s"].item()
    assert line.get_xdata()[0] == killed


def test_the_placement_map_has_a_row_per_block_and_a_column_per_placement(aware: Run) -> None:
    figure = plots.placement_map(aware)
    heads, proj, ffn = (mesh.get_array() for mesh in drawn(figure, "placement"))
    assert (heads.shape, proj.shape, ffn.shape) == ((144, 4), (12, 4), (12, 4))
    # layer 6's first four heads: c, c, then a from token 48, d from token 72
    np.testing.assert_array_equal(heads[72:76], [[2, 2, 0, 3]] * 4)
    np.testing.assert_array_equal(heads[76:84], [[2, 2, 2, 2]] * 8)
    np.testing.assert_array_equal(ffn[7], [2, 2, 3, 3])
    assert [len(lines.get_segments()) for lines in drawn(figure, "layers")] == [11, 11, 11]
    assert [text for text in texts(figure) if text.startswith("device ")] == [f"device {name}" for name in "abcd"]


def test_the_placement_map_of_a_killed_run_ends_where_the_run_ended(static: Run) -> None:
    figure = plots.placement_map(static)
    assert {line.get_xdata()[0] for line in drawn(figure, "oom")} == {48}
    assert figure.axes[0].get_xlim() == (0, 96)
    assert "OOM kill on c" in texts(figure)


def test_of_two_placements_at_one_token_the_later_one_is_drawn(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "static", tokens=9, finished=False)
    log = RunLog(folder)
    log.rows("placements", ({"epoch": 1, "step": 0, "block": block, "device": "d"} for block in first_placement()))
    log.row("links", t_s=0.0, device="backhaul", direction="up", requested_bps=1e6)
    log.close()
    figure = plots.placement_map(analysis.load(folder))
    meshes = drawn(figure, "placement")
    assert "device backhaul" not in texts(figure)
    assert [mesh.get_array().shape for mesh in meshes] == [(144, 1), (12, 1), (12, 1)]
    assert all((mesh.get_array() == 3).all() for mesh in meshes)


def test_predicted_against_measured_has_a_point_per_token_and_the_error_in_the_legend(runs: list[Run]) -> None:
    figure = plots.predicted_vs_measured(runs)
    assert [len(drawn(figure, run.policy)[0].get_offsets()) for run in runs] == [47, 95]
    (diagonal,) = drawn(figure, "diagonal")
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    for run in runs:
        assert run.summary is not None
        assert f"{run.policy} (median error {run.summary['prediction_error']:.1%})" in texts(figure)


def test_simulated_runs_count_for_nothing_beside_measured_ones(aware: Run, tmp_path: Path) -> None:
    summary = make_run(tmp_path, "resource-aware") / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"provenance": "simulated"}))
    twin = analysis.load(summary.parent)
    assert twin.simulated
    beside = plots.predicted_vs_measured([aware, twin])
    assert len(drawn(beside, "resource-aware")[0].get_offsets()) == 95
    assert beside.axes[0].get_ylabel() == "Measured token latency (ms)"
    assert plots.predicted_vs_measured(twin).axes[0].get_ylabel() == "Simulated token latency (ms)"


def test_link_rates_show_requested_read_back_and_every_timed_transfer(aware: Run) -> None:
    figure = plots.link_rates(aware)
    assert len(drawn(figure, "requested")) == 4 * 2 + 1  # each direction of each device, and the ratio's line at 1
    assert len(drawn(figure, "readback")) == 4 * 2
    achieved = sum(len(points.get_offsets()) for points in drawn(figure, "achieved"))
    assert achieved == len(aware.rates) == 11
    ratios = [drawn(figure, gid) for gid in ("up:probe", "down:probe", "up:migration")]
    assert [len(points[0].get_xydata()) for points in ratios] == [4, 4, 3]
    share = aware.rates["achieved_bps"] / aware.rates["requested_bps"]
    assert f"11 transfers, median {share.median():.3f}" in texts(figure)


def test_a_paths_transfer_is_shown_at_the_link_that_limits_it(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path, "e", "p")
    for device, rate in (("a", 200e6), ("b", 50e6)):
        for direction in ("up", "down"):
            log.row("links", t_s=0.0, device=device, direction=direction, requested_bps=rate)
    log.row(
        "rates", t_s=1.0, device="a", direction="path", peer="b", requested_bps=50e6, achieved_bps=47e6, how="probe"
    )
    log.close()
    (points,) = drawn(plots.link_rates(analysis.load(log.folder)), "achieved")
    assert points.axes.get_title(loc="left") == "Link of b"
    assert points.get_offsets().tolist() == [[1.0, 47.0]]


def test_migrations_over_the_same_link_at_the_same_time_are_told_from_others(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path, "e", "p")
    transfers = (  # start, from, to, and which side limits; each takes a second
        (1.0, "a", "b", "up"), (1.5, "a", "c", "down"),  # both leave a
        (3.0, "a", "d", "up"), (3.5, "b", "d", "up"),  # both reach d
        (5.0, "a", "b", "up"), (5.5, "b", "a", "path"), (6.0, "a", "b", "up"),  # other directions, then one by one
    )  # fmt: skip
    for start, source, target, direction in transfers:
        device, peer = (target, source) if direction == "down" else (source, target)
        log.row("rates", t_s=start, device=device, direction=direction, peer=peer, requested_bps=16e6, achieved_bps=8e6,
                bytes=1_000_000, how="migration")  # fmt: skip
    log.close()
    figure = plots.link_rates(analysis.load(log.folder))
    shared = {gid: len(drawn(figure, gid)[0].get_xydata()) for gid in ("up:shared link", "down:shared link")}
    assert shared == {"up:shared link": 3, "down:shared link": 1}
    assert sum(len(drawn(figure, f"{way}:migration")[0].get_xydata()) for way in ("up", "path")) == 3


def test_drawing_leaves_the_callers_matplotlib_settings_alone(aware: Run) -> None:
    before = dict(matplotlib.rcParams)
    plots.memory(aware)
    assert dict(matplotlib.rcParams) == before


def test_figures_are_written_in_each_format_and_named_after_their_run(runs: list[Run], tmp_path: Path) -> None:
    only = ("latency_ecdf", "link_rates")
    written = plots.save_all(runs, tmp_path / "figures", formats=("png", "pdf"), only=only)
    stems = ["latency_ecdf", *(f"link_rates-{run.policy}" for run in runs)]
    assert sorted(path.name for path in written) == sorted(
        f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")
    )
    for path in written:
        assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF")


def test_one_run_alone_gives_at_least_six_figures(aware: Run, tmp_path: Path) -> None:
    done: list[int] = []
    written = plots.save_all([aware], tmp_path, tell=done.append)
    assert [path.stem for path in written] == [*RUNS_FIGURES, *(f"{name}-{aware.policy}" for name in RUN_FIGURES)]
    assert done == [1, 2, 3, 4, 5, 6] and plots.count_figures(1) == 6


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_that_logged_nothing_still_gives_its_figures(tmp_path: Path, finished: bool) -> None:
    log = RunLog.create(tmp_path / "runs", "e", "p")
    log.finish({"status": "failed"}) if finished else log.close()
    assert len(plots.save_all(analysis.load(log.folder), tmp_path / "figures")) == 6


def test_a_run_killed_in_its_prefill_still_gives_its_figures(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path / "runs", "e", "p")
    log.row("placements", epoch=0, step=0, block="ffn(0)", device="a")
    log.row("devices", t_s=-1.0, device="a", alive=True, ledger_bytes=2**20)
    log.row("links", t_s=-1.0, device="a", direction="up", requested_bps=0.0)
    log.event("oom_kill", device="a")
    log.close()
    assert len(plots.save_all(analysis.load(log.folder), tmp_path / "figures")) == 6


def test_a_run_that_saw_its_network_gives_two_figures_more(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path / "runs", "e", "p")
    for used in (True, False):
        log.row(
            "estimates", step=8, t_s=1.0, target="link/b", quantity="up", estimate=9e6, truth=1e7, age_s=0, spread=0.1,
            used=used,
        )  # fmt: skip
    for direction, off_s in (("up", 1e-4), ("down", 2e-3)):
        log.row(
            "delays", device="b", direction=direction, asked_s=1e-3, farthest_s=1e-3 + off_s, p10_s=1e-3 + off_s,
            p50_s=1.1e-3 + off_s, p90_s=1.2e-3 + off_s, messages=40, asked_jitter_s=0.0, asked_loss=0.0,
        )  # fmt: skip
    log.row("delays", device="c", direction="up", asked_s=1e-3, messages=0, asked_jitter_s=0.0, asked_loss=0.02)
    log.close()
    run = analysis.load(log.folder)
    assert len(plots.save_all(run, tmp_path / "figures")) == 8
    assert len(drawn(plots.estimates(run), "seen")) == len(drawn(plots.estimates(run), "stale")) == 1
    assert len(drawn(plots.link_delays(run), "asked")) == 1
    assert len(drawn(plots.link_delays(run), "spread")) == len(drawn(plots.link_delays(run), "farthest")) == 2


def test_the_course_of_an_estimate_is_drawn_only_where_it_was_off(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path / "runs", "e", "p")
    for step in range(0, 40, 8):
        for target, estimate in (("link/b", 1e7), ("link/c", 1e7 if step < 16 else 4e7)):
            log.row(
                "estimates", step=step, t_s=1.0, target=target, quantity="up", estimate=estimate, truth=1e7, age_s=0,
                spread=0.1, used=True,
            )  # fmt: skip
    log.close()
    figure = plots.estimates(analysis.load(log.folder))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["", "c up (Mbit/s)"]
    assert "seen: 7 of 10 within 10 %" in [text.get_text() for text in figure.axes[0].texts]


def lossy(folder: Path, method: str, seconds: float) -> Run:
    log = RunLog.create(folder, "e", "p")
    log.write_manifest({"policy": "p", "experiment": {"recovery": {"method": method}}})
    for step in range(6):
        log.row("tokens", step=step, epoch=0, prefill=step == 0, start_s=0.2 * step, latency_s=0.2)
    for step in (2, 4):
        log.row("faults", t_s=0.2 * step, device="bcdef"[step], step=step, cause="exit", recovering=True)
        log.row(
            "recoveries", epoch=step, step=step, devices="d" if step == 2 else "c,d", noticed_s=1.0, decided_s=1.5,
            committed_s=2.0, rebuilt_s=2.0 + seconds, token_s=None if step == 4 else 2.5 + seconds,
            predicted_s=seconds, blocks=1, loaded_bytes=9, rows=4, kept_rows=0,
        )  # fmt: skip
    log.row("faults", t_s=1.0, device="d", step=5, cause="late", recovering=False, messages=3)  # is no loss
    log.close()
    return analysis.load(log.folder)


def test_losses_are_marked_and_recoveries_drawn_phase_by_phase(tmp_path: Path) -> None:
    runs = [lossy(tmp_path / "runs", method, seconds) for method, seconds in (("recompute", 4.0), ("replicate", 1.0))]
    (marks, _) = drawn(plots.token_latency(runs), "losses")
    assert list(marks.get_xdata()) == [2, 4]
    assert {"d lost", "f lost"} <= set(texts(plots.token_latency(runs)))
    assert [(mark["at"], mark["change"]) for mark in charts_of_runs(runs[:1])[0].marks] == [
        (2, "p: d lost"), (4, "p: f lost")
    ]  # fmt: skip
    bars = drawn(plots.recoveries(runs[0]), "phase")
    (axes,) = plots.recoveries(runs[0]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["token 2: without d", "token 4: without c, d"]
    assert [round(bar.get_width(), 3) for bar in bars] == [0.5, 0.5, 4.0, 0.5, 0.5, 0.5, 4.0, 0.0]
    compared = drawn(plots.downtime(runs), "phase")
    assert [round(bar.get_width(), 3) for bar in compared] == [0.5, 0.5, 4.0, 0.25, 0.5, 0.5, 1.0, 0.25]
    assert len(drawn(plots.downtime(runs), "recovery")) == 2
    names = [path.stem for path in plots.save_all(runs, tmp_path / "figures")]
    assert "downtime" in names and sum(name.startswith("recoveries-") for name in names) == 2


def test_an_unknown_format_and_no_runs_are_refused(aware: Run, tmp_path: Path) -> None:
    with pytest.raises(analysis.AnalysisError, match="'bmp' is not a format"):
        plots.save_all([aware], tmp_path, formats=("bmp",))
    with pytest.raises(analysis.AnalysisError, match="at least one run"):
        plots.token_latency([])
