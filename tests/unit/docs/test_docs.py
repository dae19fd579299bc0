"""The documentation says what the code says: the run folder's columns, the links, the verbs, the decision records."""

import re
from pathlib import Path

import pytest

from testbed.cli import VERBS
from testbed.runlog.tables import TABLES, Column

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def described(column: Column) -> str:
    """A column's row in the documentation."""
    meaning = column.meaning + (f" ({', '.join(column.choices)})" if column.choices else "")
    null = "" if column.required else "yes"
    return f"| `{column.name}` | {column.dtype} | {column.unit} | {null} | {meaning} |"


def table_section(table: str) -> str:
    """A table's heading and columns as docs/run-folder.md must have them."""
    head = [f"### {table}", "", "| column | type | unit | may be null | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *(described(column) for column in TABLES[table])]) + "\n"


@pytest.mark.parametrize("table", TABLES)
def test_the_run_folder_page_has_exactly_the_columns_of_the_table(table: str) -> None:
    page = (ROOT / "docs" / "run-folder.md").read_text()
    section = table_section(table)
    assert section + "\n" in page + "\n", f"docs/run-folder.md must have this section:\n\n{section}"


def test_the_run_folder_page_has_no_table_that_is_not_written() -> None:
    page = (ROOT / "docs" / "run-folder.md").read_text()
    assert re.findall(r"^### (.+)$", page, re.MULTILINE) == list(TABLES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in targets if "://" not in link and not (page.parent / link).exists()]
    assert not missing, f"{page.relative_to(ROOT)} links to {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_verb_a_page_shows_in_its_commands_exists(page: Path) -> None:
    shown = set(re.findall(r"(?:^|[`'/ ])testbed ([a-z]+)", _code(page.read_text()), re.MULTILINE))
    assert shown <= set(VERBS), f"{page.relative_to(ROOT)} shows {sorted(shown - set(VERBS))}"


def test_decision_records_are_numbered_without_gaps_and_say_what_they_cost() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        parts = re.findall(r"^(?:## )?(Context|Choice|What it costs)\b", record.read_text(), re.MULTILINE)
        assert parts == ["Context", "Choice", "What it costs"], record.name


def _code(markdown: str) -> str:
    """Fenced blocks and code spans, where commands stand."""
    fenced = re.findall(r"^```.*?\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`[^`\n]+`", re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL))
    return "\n".join([*fenced, *spans])
