"""`python -m pipecrypt`. All work is left to cli."""

import sys

from pipecrypt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
