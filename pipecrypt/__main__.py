"""`python -m pipecrypt`."""

import sys

from pipecrypt.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
