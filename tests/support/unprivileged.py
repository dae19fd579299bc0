"""A user without rights, and a copy of this project that this user can read.

A clone may lie in a folder that only its owner can enter, like a home folder or one made by `mktemp -d`. Then its files
are copied to a folder that is open to all. The venv is too large to copy, so it is mounted at such a folder, which only
the commands of that user see.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
NOT_COPIED = (".git", ".venv", "runs", ".*_cache", ".hypothesis", "*.egg-info", "build")
MOUNT = '/bin/mount --bind "$1" "$2" && shift 2 && exec "$@"'


@dataclass(frozen=True)
class User:
    """A user, the prefix that starts commands as that user, and the project's folder for them."""

    uid: int
    prefix: tuple[str, ...] = ()  # empty if that is the present user
    root: Path = ROOT
    venv: Path = Path(sys.prefix)

    @property
    def python(self) -> str:
        """The interpreter with the project's packages; the project itself comes by `env`."""
        return str(self.venv / "bin" / "python")

    @property
    def env(self) -> dict[str, str]:
        """Their environment: the path of the project, and no byte code, which root might leave in the tree."""
        return {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}

    def can_read(self, folder: Path) -> bool:
        """Whether the user can read everything in a folder that would be copied."""
        left_out = [word for name in NOT_COPIED for word in ("-name", name, "-prune", "-o")]
        find = ["/usr/bin/find", folder, "-mindepth", "1", *left_out, "!", "-readable", "-print", "-quit"]
        done = subprocess.run([*self.prefix, *find], cwd="/", capture_output=True)
        return done.returncode == 0 and not done.stdout


@functools.cache
def without_rights(uid: int = NOBODY, root: Path = ROOT, venv: Path = Path(sys.prefix)) -> User:
    """The user with a readable copy of the project, which is removed at the end of the tests."""
    if uid == os.geteuid():
        return User(uid, (), root, venv)
    step_down = ("/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--")
    user = User(uid, step_down, root, venv)
    if not user.can_read(root):
        copy = Path(tempfile.mkdtemp(prefix="hr-project-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*NOT_COPIED), dirs_exist_ok=True)
        subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
        user = User(uid, step_down, copy, venv)
    if not user.can_read(venv):
        place = Path(tempfile.mkdtemp(prefix="hr-venv-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        place.chmod(0o755)
        mount = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", MOUNT, "sh", str(venv), str(place))
        user = User(uid, (*mount, *step_down), user.root, place)
        if not user.can_read(place):
            pytest.fail(f"others cannot read all of {venv}: chmod -R a+rX {venv}", pytrace=False)
    return user
