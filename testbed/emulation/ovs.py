"""Open vSwitch for one run: its own database and switch daemon, in a folder that is removed with the run.

The host's own Open vSwitch is neither asked nor changed. Sockets, database and logs lie in the given folder; the
daemons see only the capsule's network namespace, and end with it. It knows nothing of devices or links. See
ovsdb-server(1), ovs-vswitchd(8), ovs-vsctl(8).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from testbed.errors import EnvironmentLacks
from testbed.programs import complaint, find_program

PACKAGE = "openvswitch-switch"
PROGRAMS = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-dpctl")
TUN = Path("/dev/net/tun")  # the userspace datapath makes each switch's own port from a tap
PATIENCE_S = 10.0  # it takes a tenth of a second on an idle machine
STOP_PATIENCE_S = 1.0
USERSPACE_NOTE = (
    "this kernel has no Open vSwitch, so a process of the run forwards each frame, some 0.1 ms later and on the "
    "host's CPU; where rates are high or cores are few load the module openvswitch, or use switch: linuxbridge"
)
_OTHERWISE = "or use switch: linuxbridge"
_FOLDERS = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")  # where its programs look; see ovs-vsctl(8)
_POLL_S = 0.01

Datapath = Literal["kernel", "user"]


class OpenVSwitch:
    """The two daemons, from `start` to `stop`. Every `ovs-*` program that this process starts talks to them."""

    datapath: Datapath = "kernel"  # who forwards, in the words of Mininet's OVSSwitch; known after `start`

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Bring both daemons up; raises EnvironmentLacks with what to install or load."""
        missing = [name for name in PROGRAMS if find_program(name) is None]
        if missing:
            raise EnvironmentLacks(
                f"switch: openvswitch needs {', '.join(missing)}: apt-get install {PACKAGE}, {_OTHERWISE}"
            )
        self._folder.mkdir(mode=0o700)
        os.environ.update(dict.fromkeys(_FOLDERS, str(self._folder)))
        os.environ["OVS_CTL_TIMEOUT"] = f"{PATIENCE_S:.0f}"  # for the `ovs-vsctl` that Mininet calls
        self.datapath = self._find_datapath()
        database, socket = self._folder / "conf.db", self._folder / "db.sock"
        self._ask("ovsdb-tool", "create", str(database))
        self._daemon("ovsdb-server", str(database), f"--remote=punix:{socket}")
        self._wait_for(socket)
        self._ask("ovs-vsctl", "--no-wait", "init")
        self._daemon("ovs-vswitchd", f"unix:{socket}")
        self._wait_for(self._folder / "ovs-vswitchd.ctl")

    def check(self, switches: Iterable[str]) -> None:
        """Raise EnvironmentLacks where a switch or a port failed, because Mininet ignores what `ovs-vsctl` answers."""
        for switch in switches:
            self._ask("ovs-vsctl", "br-exists", switch)
        failed = self._ask("ovs-vsctl", "--bare", "--columns=name,error", "find", "Interface", "error!=[]").split()
        if failed:
            raise EnvironmentLacks(f"Open vSwitch refused a port: {' '.join(failed)}; {_OTHERWISE}")

    def facts(self) -> str:
        """The version and the datapath, for the manifest."""
        version = self._ask("ovs-vswitchd", "--version").splitlines()[0].rpartition(" ")[2]
        return f"Open vSwitch {version}, {'kernel' if self.datapath == 'kernel' else 'userspace'} datapath"

    def stop(self) -> None:
        """End both daemons. Their interfaces end with the capsule."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(STOP_PATIENCE_S)
            daemon.kill()
            daemon.wait()
        self._daemons = []

    def _find_datapath(self) -> Datapath:
        """The kernel's datapath where it has one, else our own.

        Asking for the kernel's loads its module, where that is allowed.
        """
        try:
            self._ask("ovs-dpctl", "add-dp", "headroom")
            self._ask("ovs-dpctl", "del-dp", "headroom")
        except EnvironmentLacks:
            if os.access(TUN, os.R_OK | os.W_OK):
                return "user"
            raise EnvironmentLacks(
                f"switch: openvswitch finds neither the kernel's datapath nor, for one of its own, {TUN}: load the "
                f"module (modprobe openvswitch), run it in the sandbox (`testbed sandbox -- testbed replay …`), "
                f"{_OTHERWISE}"
            ) from None
        return "kernel"

    def _daemon(self, name: str, *arguments: str) -> None:
        control = self._folder / f"{name}.ctl"
        logging = ["-vconsole:off", "-vsyslog:off", "-vfile:warn", f"--log-file={self._log(name)}"]
        command = [str(find_program(name)), *arguments, f"--unixctl={control}", *logging]
        silent = subprocess.DEVNULL
        self._daemons.append(subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent))

    def _wait_for(self, socket: Path) -> None:
        """Wait until the daemon that was started last listens there."""
        daemon, deadline = self._daemons[-1], time.monotonic() + PATIENCE_S
        while not socket.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                name = Path(str(daemon.args[0])).name  # type: ignore[index]
                raise EnvironmentLacks(f"{name} does not start: {self._last_words(name)}; {_OTHERWISE}")
            time.sleep(_POLL_S)

    def _ask(self, name: str, *arguments: str) -> str:
        """Run one of its programs to its end and return its answer; raises EnvironmentLacks with its complaint."""
        command = [str(find_program(name)), *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            said = complaint(done.returncode, done.stderr)
            raise EnvironmentLacks(f"`{name} {' '.join(arguments)}` failed: {said}; {_OTHERWISE}")
        return done.stdout

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last_words(self, name: str) -> str:
        log = self._log(name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return lines[-1] if lines else "it left no message"
