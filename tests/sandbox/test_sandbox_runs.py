"""Emulated runs in the sandbox, as a user without rights: delays by netem, memory limits by cgroup v2."""

import json
import sys
from pathlib import Path

import pytest
from unprivileged import ROOT, Sandbox, user

QUICKSTART = ROOT / "experiments" / "quickstart.yaml"


@pytest.mark.timeout(300)
def test_an_unprivileged_run_has_netem_enforced_memory_and_the_references_bits(sandbox: Sandbox) -> None:
    out = sandbox.home / "runs"
    done = sandbox.run(
        sys.executable, "-m", "testbed", "replay", QUICKSTART, "--set", "model.preset=tiny", "--set", "traces=[]",
        "--tokens", "16", "--set", "delay=netem", "--out", out, "--verify", "--json", "--accept-unfaithful",
        options=["--timeout", "4 min"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    summary = json.loads(done.stdout)
    assert (summary["status"], summary["verified"], len(summary["tokens"])) == ("done", "bitwise", 16)
    assert summary["memory_enforcement"].startswith("enforced by the kernel (cgroup v2")
    folder = Path(summary["path"])
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    assert (facts["backend"], facts["delay"]) == ("mininet", "netem")
    assert all(planned == held for planned, held in facts["memory_limits"].values())
    kept = [folder, *folder.iterdir()]
    assert len(kept) > 5 and {path.stat().st_uid for path in kept} == {user()}
