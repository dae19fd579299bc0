"""Reports in HTML and LaTeX: what is in them, and that the page asks nobody for anything."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from simulated import experiment, simulated
from synthetic_run import make_run

import testbed
from testbed.analysis import load
from testbed.analysis.page import html_page
from testbed.analysis.page.chart import coloured
from testbed.analysis.page.of_runs import _scale
from testbed.analysis.report import report
from testbed.cli import cli
from testbed.errors import ConfigError
from testbed.runlog.folder import read_rows
from testbed.running.report import load_for_report, report_text, write_report

LOADING = ("src", "href", "data", "action", "poster", "srcset", "formaction", "background")


class Page(HTMLParser):
    """The tags of a page, and the contents of its scripts and of the elements with an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(dict(attrs).get("id") or tag)

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data

    def charts(self) -> dict[str, dict[str, Any]]:
        return {chart["name"]: chart for chart in json.loads(self.texts["figures"])}


def rows_of(chart: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(chart["columns"], values, strict=True)) for values in chart["values"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("runs")
    for policy in ("resource-aware", "static"):  # in the order of names, also where both are made in one second
        make_run(parent, policy)
    return parent


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return report_text(load_for_report(folder), "html")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_a_page_loads_nothing_and_tells_browsers_to_refuse_what_is_not_in_it(page: Page) -> None:
    loaded = [
        (tag, name, value) for tag, given in page.tags for name, value in given.items() if name in LOADING and value
    ]
    assert loaded == [("link", "href", "data:,")]
    policy = next(given["content"] for tag, given in page.tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy


def test_a_page_holds_vega_and_vega_lite_whole(page: Page, text: str) -> None:
    assert [given.get("type") for tag, given in page.tags if tag == "script"] == ["application/json", None, None, None]
    assert 't.version="6.4.0"' in text and '"6.5.0"' in text
    assert "sourceMappingURL" not in text


def test_the_figures_of_a_page_hold_the_values_of_the_tables(page: Page, folder: Path) -> None:
    runs = {run.policy: run for run in load_for_report(folder)}
    rows = rows_of(page.charts()["token-latency"])
    for policy, run in runs.items():
        shown = [row["latency_ms"] for row in rows if row["series"] == policy]
        assert shown == pytest.approx((1e3 * run.decoded["latency_s"]).tolist(), rel=1e-5)
    memory = rows_of(page.charts()["memory-resource-aware"])
    largest = max(row["MiB"] for row in memory if row["what"] == "in use" and row["device"] == "a")
    ledger = runs["resource-aware"].devices.query("device == 'a'")["ledger_bytes"]
    assert largest == pytest.approx(ledger.max() / 2**20, rel=1e-2)


def test_the_placement_of_a_page_has_each_block_at_every_token_once(page: Page, folder: Path) -> None:
    rows = rows_of(page.charts()["placement-resource-aware"])
    blocks = {row["block"] for row in rows}
    assert sum(row["until"] - row["from"] for row in rows) == 96 * len(blocks)
    assert len(rows) > len(blocks)  # some have moved


def test_a_killed_run_does_not_reach_all_tokens_in_the_distribution(page: Page) -> None:
    rows = rows_of(page.charts()["latency-distribution"])
    most = {
        series: max(row["share"] for row in rows if row["series"] == series) for series in ("static", "resource-aware")
    }
    assert most == {"static": pytest.approx(47 / 95, rel=1e-5), "resource-aware": 1.0}


def test_many_runs_are_drawn_as_means_and_ranges_and_not_one_by_one(tmp_path: Path) -> None:
    runs = [load(make_run(tmp_path, policy, seed, tokens=9)) for seed in range(5) for policy in ("static", "greedy")]
    charts = Page(html_page(runs, [])).charts()
    assert not [name for name in charts if name.startswith(("memory", "links", "placement"))]
    rows = rows_of(charts["token-latency"])
    assert len(rows) == 2 * 8
    every = [1e3 * run.decoded["latency_s"].iloc[0] for run in runs if run.policy == "greedy"]
    (first,) = (row for row in rows if row["series"] == "greedy" and row["token"] == 1)
    assert (first["low_ms"], first["latency_ms"], first["high_ms"]) == pytest.approx(
        (min(every), sum(every) / 5, max(every)), rel=1e-5
    )


def test_the_names_of_a_legend_have_room() -> None:
    columns = [coloured("series", {"n" * letters: "#000000"})["legend"]["columns"] for letters in (12, 62, 300)]
    assert columns == [4, 2, 1]


def test_a_scale_is_never_told_to_be_logarithmic_and_to_show_zero() -> None:
    near, far = pd.Series([200.0, 300.0]), pd.Series([1.0, 1000.0])  # Vega warns of it on the browser's console
    assert [_scale(near), _scale(near, zero=False)] == [{"zero": True}, {"zero": False}]
    assert _scale(far) == _scale(far, zero=False) == {"type": "log"}


def test_the_table_of_many_runs_is_folded_and_names_each_of_them(tmp_path: Path) -> None:
    runs = [load(make_run(tmp_path, "greedy", seed, tokens=4)) for seed in range(9)]
    many, one = html_page(runs, []), html_page(runs[:1], [])
    assert "<summary>Each of the 9 runs</summary>" in many and "Each of the" not in one
    assert all(f">greedy, seed {seed}</td>" in many for seed in range(9)) and ">greedy</td>" in one
    assert all(f"| greedy, seed {seed} | done |" in report(runs) for seed in range(9))


def test_texts_of_a_run_folder_are_only_text_on_the_page(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><!--"
    run = load(make_run(tmp_path, tokens=9))
    run.manifest["policy"] = hostile  # type: ignore[index]
    assert run.summary is not None
    run.summary.update(policy=hostile, text=hostile, error=hostile)  # type: ignore[attr-defined]
    run.summary["verdict"]["reasons"] = [hostile]
    page = Page(report_text([run], "html"))
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 4
    assert rows_of(page.charts()["token-latency"])[0]["series"] == hostile
    assert "<" not in report([run]).replace("\\<", "")


def test_a_page_draws_the_topology_and_gives_an_experiment_that_repeats_the_run(tmp_path: Path) -> None:
    run = testbed.replay("quickstart", backend="sim", tokens=9, out=tmp_path)
    page = Page(report_text(load_for_report(run.folder), "html"))
    assert [given["class"] for tag, given in page.tags if tag == "svg"] == ["topology"]
    saved = tmp_path / "saved.yaml"
    saved.write_text(page.texts["experiment-0"])
    again = testbed.replay(saved, backend="sim", out=tmp_path)
    assert again.tokens["latency_s"].tolist() == run.tokens["latency_s"].tolist()


def test_every_figure_of_a_simulated_run_says_so(tmp_path: Path) -> None:
    summary, _ = simulated(tmp_path, experiment(tokens=9))
    charts = Page(report_text(load_for_report(Path(summary["path"])), "html")).charts()
    assert charts and "prediction" not in charts
    assert {chart["spec"]["title"]["subtitle"] for chart in charts.values()} == {"Simulated: nothing was measured"}


def test_a_run_without_a_token_has_a_page_without_figures_of_latency(tmp_path: Path) -> None:
    run = load(make_run(tmp_path, tokens=0, finished=False))
    assert "nothing to draw" in html_page(run, []) or "token-latency" not in html_page(run, [])


def test_latex_is_a_table_with_booktabs_and_escaped_texts(folder: Path) -> None:
    runs = load_for_report(folder)
    done = next(run for run in runs if run.status == "done")
    done.summary["policy"] = "a_b & 5 %\nc"  # type: ignore[index]
    lines = report_text(runs, "latex").splitlines()
    table = lines[lines.index(r"\begin{table*}") :]
    assert all(line.startswith("%") for line in lines[: lines.index(r"\begin{table*}")])
    assert table.index(r"\toprule") < table.index(r"\midrule") < table.index(r"\bottomrule")
    assert any(line.startswith(r"a\_b \& 5 \% c & done & 96 &") for line in table)
    assert all(character.isascii() for character in "".join(table))


@pytest.mark.parametrize(
    ("name", "begin"), [("r.html", "<!doctype html>"), ("r.md", "# Results"), ("r.tex", "% \\use")]
)
def test_the_suffix_of_the_file_decides_what_is_written(folder: Path, tmp_path: Path, name: str, begin: str) -> None:
    done = CliRunner().invoke(cli, ["report", str(folder), "--out", str(tmp_path / name)])
    assert (done.exit_code, done.output.strip()) == (0, str(tmp_path / name))
    assert (tmp_path / name).read_text().startswith(begin)


def test_format_wins_over_the_suffix_and_an_unknown_suffix_is_refused(folder: Path, tmp_path: Path) -> None:
    write_report(folder, tmp_path / "report.txt", "md")
    assert (tmp_path / "report.txt").read_text().startswith("# Results")
    with pytest.raises(ConfigError, match=r"report\.pdf: its suffix must be one of \.html, .*or say --format"):
        write_report(folder, tmp_path / "report.pdf")


def test_a_report_reads_no_spans(folder: Path) -> None:
    (run, *_) = load_for_report(folder)
    assert run.spans.empty and read_rows(run.folder, "spans")
