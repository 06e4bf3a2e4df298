"""`python -m minitxl`: see cli/."""

import os
import signal
import sys


def _leave_at_once(signum, frame):
    """End at Ctrl-C while modules are loaded: nothing is done yet, and no traceback helps."""
    os.write(2, b"\nminitxl: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _leave_at_once)
    from minitxl.cli import main

    sys.exit(main())
