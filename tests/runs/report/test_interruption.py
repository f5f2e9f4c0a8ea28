from __future__ import annotations

import os
import signal

import pytest

from pipecrypt.errors import InterruptedRunError
from pipecrypt.runs.report.interruption import Interruption


def test_the_error_says_how_to_go_on() -> None:
    interruption = Interruption()
    with pytest.raises(KeyboardInterrupt), interruption:
        os.kill(os.getpid(), signal.SIGTERM)

    resumable, plain = interruption.error(is_resumable=True), interruption.error(is_resumable=False)
    assert "SIGTERM" in resumable.message
    assert "--resume" in resumable.hint
    assert plain.hint == InterruptedRunError.default_hint
