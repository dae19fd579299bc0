"""Calls on the workers of a Dask cluster that the user has started.

A machine of the cluster has at most one worker with the resource `emulation`, which emulated runs need: so each machine
carries out one of them at a time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from testbed.errors import ConfigError, EnvironmentLacks
from testbed.running.worker_pool import WorkersDied

if TYPE_CHECKING:
    from distributed import Client

EMULATION = "emulation"  # the resource
PATIENCE = "10s"  # for the scheduler's answer
ANSWER_S = 2.0  # that its dashboard has for one


def remarks_on(scheduler: str, emulated: bool, dashboard: bool) -> list[str]:
    """What is to be said of a cluster before the first run; `emulated`: some runs are. Raises as `call_on_cluster`."""
    with _connected(scheduler) as client:
        found = client.scheduler_info(n_workers=-1)
        remarks = []
        if not found["workers"]:
            remarks.append(f"No worker has joined {scheduler} yet; the runs wait for one.")
        elif emulated and not any(worker["resources"].get(EMULATION) for worker in found["workers"].values()):
            remarks.append(
                f"No worker at {scheduler} may emulate; the emulated runs wait for one that is started with "
                f"`--resources {EMULATION}=1`, once on each machine."
            )
        if dashboard:
            served = "dashboard" in found["services"] and not _is_missing(client.dashboard_link)
            remarks.append(f"Dashboard: {client.dashboard_link}" if served else f"{scheduler} serves no dashboard.")
        return remarks


def call_on_cluster(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], keys: Sequence[str], emulated: set[int],
    scheduler: str,
) -> Generator[tuple[int, Any], None, None]:  # fmt: skip
    """Let the workers make the calls, and yield the number and the result of each as it ends.

    `emulated` has the numbers of the calls that need the resource. Raises ConfigError for what is no address,
    EnvironmentLacks if no scheduler answers there, and WorkersDied if several workers died under one call.
    """
    from distributed import KilledWorker, as_completed

    with _connected(scheduler) as client:
        futures = {
            client.submit(
                function, *call, key=keys[number], pure=False, resources={EMULATION: 1} if number in emulated else None
            ): number
            for number, call in enumerate(calls)
        }
        for future in as_completed(list(futures), loop=client.loop):
            number = futures.pop(future)
            try:
                yield number, future.result()
            except KilledWorker as error:
                raise WorkersDied(number) from error
            future.release()


def _is_missing(link: str) -> bool:
    """Whether a scheduler answers that it has no such page, as with `--no-dashboard`, which leaves its server there."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        urlopen(link, timeout=ANSWER_S).close()
    except HTTPError as error:
        return error.code == HTTPStatus.NOT_FOUND
    except OSError:  # it may be reached from elsewhere
        return False
    return False


def _connected(scheduler: str) -> Client:
    from distributed import Client
    from distributed.security import Security

    for name in ("distributed", "tornado.application", "asyncio"):  # what matters comes as an exception
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if re.fullmatch(r"(tcp|tls)://.+:\d+", scheduler) is None:
        raise ConfigError(f"--scheduler {scheduler}: no address of a scheduler, which is like tcp://10.0.0.1:8786")
    try:
        if scheduler.startswith("tls://") and Security().get_connection_args("client")["ssl_context"] is None:
            raise ConfigError(
                f"--scheduler {scheduler}: Dask's configuration names no certificates (distributed.comm.tls): set "
                "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, and …__TLS__CLIENT__CERT and …__TLS__CLIENT__KEY"
            )
        return Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except OSError as error:
        raise EnvironmentLacks(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from error
