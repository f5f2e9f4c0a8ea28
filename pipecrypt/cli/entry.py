"""Where a command starts: signals that come while commands are loaded wait, and then end it with a message.

Loading makes half a million objects that stay, among them what an SDK knows of its service. Looking through them for
cycles takes a tenth of a second while they are loaded, and a quarter of a second more when Python ends.
"""

from __future__ import annotations

import gc
import signal

__all__ = ["main"]


def main() -> int:
    """Run the command line with the arguments of this process, and return the exit code."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    gc.disable()
    from pipecrypt.cli.main import main as run  # takes half a second

    gc.freeze()
    gc.enable()
    try:
        return run(mask=held)
    finally:
        gc.freeze()
