"""Where a worker process begins.

The process that starts workers imports this module without the decoder. The forkserver has loaded the worker already,
so the import below costs its children nothing.
"""

from __future__ import annotations

from testbed.worker.config import WorkerConfig


def run_worker(config: WorkerConfig) -> None:
    """Run a worker to its end, in a child of the forkserver."""
    from testbed.worker.main import run

    run(config)
