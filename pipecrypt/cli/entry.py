"""Where a command starts: signals that come while commands are loaded wait, and then end it with a message."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> int:
    """Run the command line with the arguments of this process, and return the exit code."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    from pipecrypt.cli.main import main as run  # takes half a second

    return run(mask=held)
