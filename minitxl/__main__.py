"""`python -m minitxl`: see cli/."""

import sys

from minitxl.cli import main

if __name__ == "__main__":
    sys.exit(main())
