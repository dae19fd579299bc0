"""What the tests that step down in rights rely on: the project, wherever it lies, read by a user without any."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from unprivileged import NOBODY, ROOT, without_rights


def test_a_project_that_others_cannot_read_is_brought_to_a_user_without_rights(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copytree(ROOT / "testbed", home / "testbed")
    (home / "testbed" / "__init__.py").chmod(0o600)
    (home / ".venv").symlink_to(sys.prefix)
    user = without_rights(NOBODY, home, home / ".venv")
    program = "import os, torch, testbed.cli; print(os.geteuid(), testbed.cli.__file__)"
    done = subprocess.run(
        [*user.prefix, user.python, "-c", program], cwd="/", env=user.env, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{NOBODY} {user.root}/testbed/cli/__init__.py\n", done.stderr
    assert not user.root.is_relative_to(home)
