"""The results page is what script/results writes from the data, with every figure it shows and no other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results import claims, drawing, page, store, validation, validation_host

PAGE = page.PAGE.read_text(encoding="utf-8")


def test_the_page_says_what_its_data_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "IMAGES", tmp_path)
    assert page.text() == PAGE, "run script/results, and commit docs/results.md with the figures"
    drawn = {image.name for image in drawing.images()}
    shown = {Path(link).name for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE)}
    assert drawn == shown


def test_every_figure_in_the_folder_is_shown() -> None:
    folder = store.ROOT / "docs" / "img"
    assert {f"img/{image.name}" for image in folder.glob("results-*.png")} == set(
        re.findall(r"\]\((img/[^)]+)\)", PAGE)
    )


@pytest.mark.parametrize("name", page.collected())
def test_every_table_says_how_it_was_obtained(name: str) -> None:
    frame, how = store.load(name)
    assert len(frame)
    said = {"command", "kind", "date", "commit", "machine", "seconds", "seeds", "notes"}
    assert said <= set(how)
    assert not how["commit"].endswith("+"), f"{name} was made by a program that was not committed"
    assert set(frame.get("seed", [])) <= set(how["seeds"])


def test_there_is_no_data_that_no_section_is_made_of() -> None:
    files = {file.stem for file in store.DATA.iterdir() if file.is_file()}
    assert files == {*page.collected(), validation_host.DATA.stem, "recompute"}


def test_twenty_drawn_numbers_of_the_page_were_recomputed_from_the_data_by_plain_pandas() -> None:
    script = store.DATA / "recompute.py"
    assert "benchmarks" not in re.findall(r"^(?:from|import) (\w+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout == script.with_suffix(".txt").read_text(encoding="utf-8")


def test_the_table_of_claims_has_six_and_every_row_at_least_20_instances() -> None:
    rows = claims.all_rows()
    assert min(row.instances for row in rows) >= 20
    assert {row.claim for row in rows if row.told} == set(claims.SHORT), "README has a line for each"


@pytest.mark.parametrize("name", page.collected())
def test_every_section_names_the_command_that_makes_its_data(name: str) -> None:
    assert f"python -m benchmarks.results.{name}" in PAGE


def test_other_pages_have_the_tables_of_the_data() -> None:
    for file, table in page.tables_elsewhere().items():
        assert table in file.read_text(encoding="utf-8"), f"run script/results: {file.name} must have:\n\n{table}"


def test_the_validation_page_says_what_its_table_says(tmp_path: Path) -> None:
    written = validation.text(tmp_path / "validation.png")
    assert written == validation.PAGE.read_text(encoding="utf-8"), "run script/results, and commit docs/validation.md"
    assert validation.rates() == validation.RATES.read_text(encoding="utf-8")
    assert (tmp_path / "validation.png").stat().st_size > 10_000 and validation.IMAGE.is_file()
