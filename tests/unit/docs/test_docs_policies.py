"""The pages on policies say what the code does, and the policy that a reader is shown runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from testbed.cli import run
from testbed.placement.policies import POLICIES
from testbed.runlog.folder import read_rows

ROOT = Path(__file__).resolve().parents[3]


def test_every_policy_has_a_paragraph_with_its_source_in_the_order_of_the_list() -> None:
    page = (ROOT / "docs" / "policies.md").read_text()
    paragraphs = dict(re.findall(r"^\*\*([a-z-]+)\*\* (.+?)\n\n", page, re.MULTILINE | re.DOTALL))
    assert list(paragraphs) == list(POLICIES), "docs/policies.md has one paragraph for each policy"
    for name, paragraph in paragraphs.items():
        assert "Source:" in paragraph, name


def test_the_policy_of_the_guide_is_short_and_moves_off_a_slow_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "write-a-policy.md").read_text()
    (source,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    policy = source[source.index("class ") :]
    assert len(policy.strip().splitlines()) <= 30
    (tmp_path / "best_link.py").write_text(source)
    experiment = ROOT / "experiments" / "gpt2-star4.yaml"
    name = f"{tmp_path / 'best_link.py'}:BestLink"
    arguments = ["replay", str(experiment), "--backend", "sim", "--policy", name, "--tokens", "48", "--json"]
    assert run([*arguments, "--out", str(tmp_path / "runs"), "--accept-unfaithful"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["status"] == "done" and summary["migrations"] > 0
    moved = read_rows(Path(summary["path"]), "migrations")
    assert {row["src"] for row in moved} == {"c"}  # whose link falls to 20 Mbit/s
    assert run([*arguments, "--out", str(tmp_path / "runs"), "--set", "policy_options.least=1"]) == 0
    assert json.loads(capsys.readouterr().out)["migrations"] == 0
