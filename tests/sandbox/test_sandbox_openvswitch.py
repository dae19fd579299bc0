"""Open vSwitch in the sandbox, whose kernel has a datapath for it."""

import json
from pathlib import Path

import pytest
from guests import Sandbox, user


@pytest.mark.timeout(300)
def test_an_unprivileged_run_has_the_kernels_open_vswitch(sandbox: Sandbox) -> None:
    done = sandbox.run(
        *sandbox.testbed("replay", user().root / "experiments" / "quickstart.yaml"),
        "--set", "model.preset=tiny", "--set", "traces=[]", "--set", "switch=openvswitch", "--tokens", "8",
        "--out", sandbox.home / "runs", "--verify", "--json", "--accept-unfaithful", options=["--timeout", "4 min"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    summary = json.loads(done.stdout)
    assert (summary["status"], summary["verified"]) == ("done", "bitwise")
    facts = json.loads((Path(summary["path"]) / "manifest.json").read_text())["facts"]
    assert facts["switch"].startswith("Open vSwitch ") and facts["switch"].endswith(", kernel datapath")
