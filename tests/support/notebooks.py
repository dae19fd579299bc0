"""Runs a notebook's cells with the plain interpreter, as Jupyter would: it has no magics and no widgets to need more.

`python tests/support/notebooks.py FILE` writes what the cells show into the notebook.
"""

from __future__ import annotations

import ast
import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

Shown = list[dict[str, Any]]  # a cell's outputs, as the format of notebooks has them


def run_cells(notebook: dict[str, Any]) -> list[Shown]:
    """Run all code cells in one namespace; returns what each shows: its prints, and the value of its last line."""
    names: dict[str, Any] = {"__name__": "__main__"}
    return [_run("".join(cell["source"]), names, number) for number, cell in enumerate(code_cells(notebook), 1)]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The code cells of a notebook."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _run(source: str, names: dict[str, Any], number: int) -> Shown:
    tree = ast.parse(source, f"cell {number}")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = StringIO()
    value = None
    with redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    shown: Shown = []
    if printed.getvalue():
        shown.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
    if value is not None:
        html = value._repr_html_() if hasattr(value, "_repr_html_") else None
        data = {"text/plain": repr(value)} | ({"text/html": html} if html else {})
        shown.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    return shown


def main() -> None:
    """Write what the cells show into the notebook."""
    path = Path(sys.argv[1]).absolute()
    notebook = json.loads(path.read_text())
    for number, (cell, shown) in enumerate(zip(code_cells(notebook), run_cells(notebook), strict=True), 1):
        cell |= {"outputs": shown, "execution_count": number}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
