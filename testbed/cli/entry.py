"""Where a run's own process begins: `python -m testbed.cli.entry RUN_FOLDER`, in a capsule or as a plain child.

It takes a second to load what the run needs, so Ctrl-C gets its handler before that.
"""

from __future__ import annotations

import sys
from pathlib import Path

from testbed.cli import INTERRUPTED
from testbed.emulation.capsule import prepare_inner


def main() -> None:
    """Carry out the run that the folder's manifest describes."""
    try:
        prepare_inner()
        from testbed.cli.inside import run

        code = run(Path(sys.argv[1]))
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
