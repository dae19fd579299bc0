"""The documentation says what the code says: the run folder's columns, links, commands, decision records."""

import re
import shlex
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
import pytest

from testbed.cli import cli
from testbed.experiment.schema import Experiment
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


def test_the_experiment_page_has_every_key_in_the_order_of_the_schema_with_its_choices() -> None:
    page = (ROOT / "docs" / "experiment.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", page, re.MULTILINE))
    assert list(rows) == list(Experiment.model_fields)
    for key, field in Experiment.model_fields.items():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        assert all(f"`{choice}`" in rows[key] for choice in choices), key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in targets if "://" not in link and not (page.parent / link).exists()]
    assert not missing, f"{page.relative_to(ROOT)} links to {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_shows_has_its_verb_and_options(page: Path) -> None:
    for line in _commands(page.read_text()):
        try:
            _parse(shlex.split(line, comments=True)[1:])
        except click.UsageError as error:
            pytest.fail(f"{page.relative_to(ROOT)} shows `{line}`: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_script_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"\bscript/([a-z_-]+)", page.read_text()))
    assert not {name for name in named if not list((ROOT / "script").glob(f"{name}*"))}


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_every_decision_record_is_listed_under_its_own_title() -> None:
    page = (ROOT / "docs" / "decisions.md").read_text()
    for record in sorted((ROOT / "docs" / "adr").glob("*.md")):
        title = record.read_text().partition("\n")[0].removeprefix("# ")
        assert f"[{title}](adr/{record.name})" in page, (
            f"docs/decisions.md must have a link to {record.name}, {title!r}"
        )


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


def _commands(markdown: str) -> list[str]:
    """The command lines of `testbed` in fenced blocks and code spans."""
    code = _code(markdown).replace("\\\n", " ").replace("`", "\n")
    return re.findall(r"^\s*(?:sudo )?(?:\.venv/bin/)?(testbed [a-z].*)$", code, re.MULTILINE)


def _parse(words: list[str]) -> None:
    """Refuse unknown verbs and options; values and files are not looked at."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"there is no verb {words[0]}")
        command, words, context = found, words[1:], click.Context(found, parent=context)
    command.make_parser(context).parse_args(words)
