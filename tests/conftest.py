"""What holds for all tests: none remembers accepted versions in this user's home, or finds those of another test.

Servers that several folders of tests use are made known here too.
"""

from __future__ import annotations

import logging
import sys
import threading
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.servers.fixtures import azurite_store, fake_gcs_store, moto_s3_server, s3_server, seaweedfs_server

__all__ = ["azurite_store", "fake_gcs_store", "moto_s3_server", "s3_server", "seaweedfs_server"]

# How fast examples are made and tried says how busy the machine is, and nothing about what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _no_state_dir() -> Iterator[None]:
    """What is written for several tests is not remembered at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPECRYPT_STATE_DIR", "")
        yield


@pytest.fixture(scope="session")
def _states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(autouse=True)
def _state_dir(_states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(_states / uuid.uuid4().hex))


@pytest.fixture(autouse=True)
def _own_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that a test carries out in this process sets up the logs of the process: not for the tests after it."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    logger = logging.getLogger("pipecrypt")
    level, handlers, propagates = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.propagate = propagates
    logger.setLevel(level)
