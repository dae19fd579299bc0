"""`testbed validate` shows each row with its prediction, as a table or as JSON, and refuses a file that is no table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.cli import run
from testbed.validation.table import BUNDLED, read_table


def test_json_has_every_row_the_scores_and_what_calibrated(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["line"] for row in told["rows"]} == {row.line for row in read_table(BUNDLED)}
    assert told["summary"]["computing"]["met"] is True
    lines = {line for fit in told["calibrated_from"] for line in fit["lines"]}
    assert lines <= {row["line"] for row in told["rows"] if row["calibration"]}


def test_the_table_ends_with_a_sentence_for_each_score(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate"]) == 0
    told = capsys.readouterr().out.splitlines()
    begins = ("Bytes per token:", "Computing:", "Token time on 2 to 4 boards:", "Computing against context:", "Memory:",
              "Transfer, not scored:")  # fmt: skip
    assert [line.startswith(begin) for line, begin in zip(told[-6:], begins, strict=True)] == [True] * 6


def test_a_table_of_ones_own_is_predicted_and_one_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.csv"
    own.write_text(
        "source,where,model,quant_bits,devices,link,metric,value,unit,notes\n"
        'me,here,Llama 2 13B,"Q40, Q80 exchange",2 x Raspberry Pi 4B 8GB,1 GbE,token time,1234,ms/token,dllama 0.1.0\n'
        "me,here,,,,,,,,\n",
        encoding="utf-8",
    )
    assert run(["validate", str(own), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert first["scored"] == "token time" and first["predicted"] > 0 and first["fits"] is True
    assert second["predicted"] is None and second["reason"]
    own.write_text("a,b\n1,2\n", encoding="utf-8")
    assert run(["validate", str(own)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
