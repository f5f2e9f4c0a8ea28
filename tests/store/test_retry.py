from __future__ import annotations

import errno

import pytest

from pipecrypt.vocabulary.retry import Retry, TruncatedError, is_transient


class _World:
    """A clock that only pauses move, and a call that fails as planned."""

    def __init__(self, *errors: BaseException) -> None:
        self.now, self.calls, self.errors = 0.0, 0, list(errors)

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False

    def call(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    def retry(self, deadline_seconds: float) -> Retry:
        return Retry(deadline_seconds, lambda: self.now, self.pause, lambda: 1.0)


def test_failures_that_pass_are_tried_again() -> None:
    world = _World(ConnectionResetError(), TimeoutError(), TruncatedError())
    assert world.retry(10).call(world.call) == "done"
    assert (world.calls, round(world.now, 3)) == (4, 0.7)


@pytest.mark.parametrize("error", [PermissionError(), FileNotFoundError(), ValueError(), OSError(errno.EIO, "x")])
def test_others_are_not(error: Exception) -> None:
    world = _World(error)
    with pytest.raises(type(error)):
        world.retry(10).call(world.call)
    assert world.calls == 1


def test_time_ends() -> None:
    world = _World(*[ConnectionResetError() for _ in range(1000)])
    with pytest.raises(ConnectionResetError):
        world.retry(30).call(world.call)
    assert 15 < world.now < 30


def test_an_address_where_nobody_answers() -> None:
    world = _World(*[ConnectionRefusedError() for _ in range(1000)])
    with pytest.raises(ConnectionRefusedError):
        world.retry(30).call(world.call)
    assert world.calls == 4


def test_a_result_that_nobody_wants() -> None:
    world = _World(ConnectionResetError())
    retry = world.retry(30)
    retry.stop()
    with pytest.raises(ConnectionResetError):
        retry.call(world.call)


@pytest.mark.parametrize(("status", "code", "passes"), [(503, "SlowDown", True), (403, "AccessDenied", False)])
def test_answers_of_s3(status: int, code: str, passes: bool) -> None:
    error = OSError("translated by s3fs")
    error.__cause__ = Exception()
    error.__cause__.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}  # type: ignore[attr-defined]
    assert is_transient(error) is passes
