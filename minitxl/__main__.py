"""`python -m minitxl`: see cli.py."""

import sys

from minitxl.cli import main

if __name__ == "__main__":
    sys.exit(main())
