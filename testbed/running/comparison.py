"""What a comparison or a sweep gives: a summary of every run, and a line for each policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

HEADINGS = {
    "policy": "policy", "backend": "backend", "runs": "runs", "infeasible": "infeasible", "oom": "oom",
    "failed": "failed", "over": "mean over", "mean_token_ms": "ms per token", "ci95": "95 % interval",
    "ratio_to_exact": "to exact", "migrations": "migrations", "decision_ms": "decision ms",
    "joules_per_token": "J per token",
}  # fmt: skip
"""Key of `policy_row` -> heading of the table of policies."""

_WHERE_KNOWN = ("ratio_to_exact", "joules_per_token")  # columns that are left out where no policy has a value


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side. A notebook shows the table of policies.

    `summaries` has the summary of every run; in a sweep each has its swept values as `over`. `policies` has a line for
    each policy and backend, in a sweep for each combination of values too: means over the instances that every policy
    finished, with 95 % intervals. Keys end in their units. `file` is a Parquet file with a row for each run.
    """

    summaries: Sequence[Mapping[str, Any]]
    policies: Sequence[Mapping[str, Any]]
    file: Path
    instances: int  # runs per policy: how many seeds there are
    swept: Sequence[str] = ()  # the keys of the experiment that a sweep varies

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each line of `policies`; columns as in `testbed compare --json`, swept keys first."""
        import pandas as pd

        return pd.DataFrame([dict(line.get("over", {})) | _without_over(line) for line in self.policies])

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run, as in the Parquet file."""
        import pandas as pd

        return pd.read_parquet(self.file)

    def policy_rows(self) -> list[dict[str, Any]]:
        """Return the lines of the table of policies for a person: keys of `HEADINGS`, after those of the sweep."""
        rows = []
        for line in self.policies:
            row = dict(line.get("over", {})) | policy_row(_without_over(line), self.instances)
            rows.append(row | {key: str(row[key]) for key in self.swept if isinstance(row[key], dict | list)})
        return rows

    def headings(self) -> dict[str, str]:
        """Return the headings of the table of policies, those of swept keys first; energy and ratios where known."""
        unknown = {key for key in _WHERE_KNOWN if all(line.get(key) is None for line in self.policies)}
        shown = {key: told for key, told in HEADINGS.items() if key not in unknown}
        return {key: key for key in self.swept} | shown

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {"rows": list(self.summaries), "table": list(self.policies)}

    def _repr_html_(self) -> str:
        import pandas as pd

        headings = self.headings()
        rows = [[row.get(key) for key in headings] for row in self.policy_rows()]
        shown = pd.DataFrame(rows, columns=list(headings.values()))
        return str(shown.to_html(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}"))

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.summaries)} runs: {self.file}>"


def policy_row(line: Mapping[str, Any], instances: int) -> dict[str, Any]:
    """Return one line of `Comparison.policies` with the keys of `HEADINGS`."""
    interval = line["ci95_token_ms"]
    return dict(line) | {
        "over": f"{len(line['instances'])} of {instances}",
        "ci95": None if interval is None else f"{interval[0]:.4g} - {interval[1]:.4g}",
    }


def plain(value: Any) -> Any:
    """Return a swept value as a column can hold it: a mapping or list as JSON."""
    return json.dumps(value) if isinstance(value, dict | list) else value


def _without_over(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "over"}
