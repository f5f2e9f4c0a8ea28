from __future__ import annotations

import pytest

from pipecrypt.errors import UsageError
from pipecrypt.runs.spec.options import ExecutorKind, RunOptions


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:8786", "tls://dask.example.org:8786", "localhost:8786", "tcp://[::1]:8786", "wss://h/s"]
)
def test_addresses_of_schedulers(address: str) -> None:
    assert RunOptions(executor=ExecutorKind.DASK, address=address).address == address


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://host", "", "http://host:1", "host:port", "a b:1", "tcp://u@h:1"]
)
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(UsageError):
        RunOptions(executor=ExecutorKind.DASK, address=address)


@pytest.mark.parametrize("given", [{"attempts": 0}, {"attempts": True}, {"split_bytes": 0}, {"address": "h:1"}])
def test_what_means_nothing_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        RunOptions(**given)  # type: ignore[arg-type]
