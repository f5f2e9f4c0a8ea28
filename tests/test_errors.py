"""Errors reach the driver from worker processes as they were raised."""

from __future__ import annotations

import pickle

import pytest

from pipecrypt import errors
from pipecrypt.errors import ConfigError, NotInPlaceError, PipecryptError, VerificationError

_ERRORS = [kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), PipecryptError)]


@pytest.mark.parametrize("kind", _ERRORS)
def test_an_error_is_sent_with_its_hint(kind: type[PipecryptError]) -> None:
    error = kind("the message", hint="the hint")
    error.add_hint("another one")
    received = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(received) is kind
    assert (received.message, received.hint, str(received)) == ("the message", "the hint; another one", "the message")
    assert pickle.loads(pickle.dumps(kind("x"))).hint == kind.default_hint  # noqa: S301 - our own


def test_an_error_is_sent_with_what_it_carries() -> None:
    problems = pickle.loads(pickle.dumps(ConfigError("x", problems=("one", "two"))))  # noqa: S301 - our own
    assert problems.lines == ("one", "two")
    for kind in (VerificationError, NotInPlaceError):
        assert pickle.loads(pickle.dumps(kind("x", report=[1]))).report == [1]  # noqa: S301 - our own


def test_an_error_says_where_it_happened_and_keeps_what_it_carries() -> None:
    error = ConfigError("two problems", hint="mend them", problems=("a", "b"))
    found = error.prefixed("run.yaml")
    assert type(found) is ConfigError
    assert (found.message, str(found), found.hint) == ("run.yaml: two problems", "run.yaml: two problems", "mend them")
    assert found.problems == ("a", "b")
    assert found.prefixed("x", hint="look").hint == "look"
    assert (error.message, error.hint) == ("two problems", "mend them")
    again = pickle.loads(pickle.dumps(found))  # noqa: S301
    assert (again.message, again.hint) == (found.message, found.hint)
