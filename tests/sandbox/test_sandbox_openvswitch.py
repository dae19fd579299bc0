"""Open vSwitch in the sandbox, whose kernel has a datapath for it."""

import json
import sys
from pathlib import Path

import pytest
from unprivileged import ROOT, Sandbox


@pytest.mark.timeout(300)
def test_an_unprivileged_run_has_the_kernels_open_vswitch(sandbox: Sandbox) -> None:
    done = sandbox.run(
        sys.executable, "-m", "testbed", "replay", ROOT / "experiments" / "quickstart.yaml",
        "--set", "model.preset=tiny", "--set", "traces=[]", "--set", "switch=openvswitch", "--tokens", "8",
        "--out", sandbox.home / "runs", "--verify", "--json", "--accept-unfaithful", options=["--timeout", "4 min"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    summary = json.loads(done.stdout)
    assert (summary["status"], summary["verified"]) == ("done", "bitwise")
    facts = json.loads((Path(summary["path"]) / "manifest.json").read_text())["facts"]
    assert facts["switch"].startswith("Open vSwitch ") and facts["switch"].endswith(", kernel datapath")
