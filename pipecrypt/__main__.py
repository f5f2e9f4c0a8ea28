"""`python -m pipecrypt`. All work is left to cli."""

import sys

from pipecrypt.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
