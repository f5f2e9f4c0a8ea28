"""The names that `import pipecrypt` gives."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import pytest

import pipecrypt
from pipecrypt.errors import UsageError


@pytest.mark.parametrize("name", pipecrypt.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(pipecrypt, name) is getattr(pipecrypt, name)
    assert name in dir(pipecrypt)


def test_what_type_checkers_see_is_what_is_there() -> None:
    tree = ast.parse(Path(pipecrypt.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            home = f"{node.module}.errors" if alias.name == "errors" else f"{node.module}:{alias.name}"
            seen[alias.asname or alias.name] = home

    assert seen == pipecrypt._HOMES
    assert set(pipecrypt.__all__) == {*seen, "__version__"}


# What exported classes have for the rooms below, and no page documents.
_NOT_PART_OF_THE_FACE = {
    "Credentials.derive_once": "for key services",
    "Credentials.key_file": "for key services",
    "EncryptedDataset.__init__": "pipecrypt.open makes it",
    "FileDone.grants": "what the driver stores beside the data",
    "FileDone.signable": "what the driver signs",
    "PipecryptFileSystem.use": "for pipecrypt.open",
    "PipecryptFileSystem.view": "for pipecrypt.open",
    "TaskCall.setup": "a call is called, whatever is in it",
    "TaskCall.task": "likewise",
}


def test_every_type_that_a_signature_or_a_result_names_is_exported() -> None:
    public = {id(getattr(pipecrypt, name)) for name in pipecrypt.__all__}
    public |= {id(getattr(pipecrypt.errors, name)) for name in pipecrypt.errors.__all__}
    waiting = [(name, getattr(pipecrypt, name)) for name in pipecrypt.__all__ if name not in {"errors", "__version__"}]
    known, left_out, private = set(), set(), set()
    while waiting:
        name, value = waiting.pop()
        for member, hint in _hints_of(name, value):
            if member in _NOT_PART_OF_THE_FACE:
                left_out.add(member)
                continue
            for kind in _types_in(hint):
                if not kind.__module__.startswith("pipecrypt") or kind in known:
                    continue
                known.add(kind)
                waiting.append((kind.__name__, kind))
                if id(kind) not in public:
                    private.add(f"{kind.__module__}.{kind.__name__}, in {member}")

    assert private == set()
    assert left_out == set(_NOT_PART_OF_THE_FACE)


def _hints_of(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield what a name's signature, or a class's fields or public methods, name: each with whose it is."""
    if not isinstance(value, type):
        if inspect.isfunction(value):
            yield from ((name, hint) for hint in _annotations(value).values())
        else:
            yield name, value
    elif dataclasses.is_dataclass(value):
        yield from ((f"{name}.{field}", hint) for field, hint in _annotations(value).items())
    elif value.__module__.startswith("pipecrypt") and not issubclass(value, Enum | Exception):
        for member, each in vars(value).items():
            function = _function_of(each)
            if function is not None and (member == "__init__" or not member.startswith("_")):
                yield from ((f"{name}.{member}", hint) for hint in _annotations(function).values())


def _function_of(member: object) -> Callable[..., object] | None:
    """Return the function behind a method or a property; None for anything else."""
    for wrapped in ("fget", "func", "__func__"):
        member = getattr(member, wrapped, member)
    return member if inspect.isfunction(member) else None


def _annotations(value: Callable[..., object]) -> dict[str, object]:
    module = sys.modules[value.__module__]
    return typing.get_type_hints(value, vars(typing) | vars(module) | {"os": os})


def _types_in(hint: object) -> Iterator[type]:
    if isinstance(hint, list):
        for each in hint:
            yield from _types_in(each)
    elif arguments := typing.get_args(hint):
        for each in (typing.get_origin(hint), *arguments):
            yield from _types_in(each)
    elif isinstance(hint, type):
        yield hint


def test_a_session_shows_what_callers_use_and_nothing_of_what_it_lends() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    session, credentials = public(pipecrypt.Session), public(pipecrypt.Credentials)
    assert session - credentials == {"keys", "close"}
    assert not credentials & {"adopt_answers", "begin_anew", "is_closed"}


def test_the_public_names_are_documented() -> None:
    page = (Path(pipecrypt.__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in pipecrypt.__all__ if f"`{name}`" not in page and f"pc.{name}" not in page] == []


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="'pipecrypt' has no attribute 'nonsense'"):
        pipecrypt.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_modules_that_are_gone_give_the_public_names_for_one_more_release() -> None:
    for module in pipecrypt._MOVED:
        with pytest.warns(DeprecationWarning, match="write `from pipecrypt import Summary`"):
            assert importlib.import_module(f"pipecrypt.{module}").Summary is pipecrypt.Summary
        with pytest.raises(AttributeError):
            importlib.import_module(f"pipecrypt.{module}").run_request  # noqa: B018  # was never public
    for nonsense in ("pipecrypt.nonsense", "pipecrypt.pipeline.nonsense", "pipecrypt.pipeline.calls.file"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(nonsense)


def test_the_version_is_the_package_s() -> None:
    try:
        installed = importlib.metadata.version("pipecrypt")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("a source checkout that is not installed")
    assert pipecrypt.__version__ == installed


def test_type_checkers_are_told_that_it_is_typed() -> None:
    assert Path(pipecrypt.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize(
    "name", ["encrypt", "decrypt", "run", "verify", "Policy", "decryption_properties", "crypto_factory"]
)
def test_what_users_call_is_documented(name: str) -> None:
    documentation = getattr(pipecrypt, name).__doc__

    assert documentation
    assert "Args:" in documentation


def test_misuse_is_a_usage_error() -> None:
    for call in (
        lambda: pipecrypt.encrypt(b"x", "y", pipecrypt.Policy(default="static://k#a")),
        lambda: pipecrypt.encrypt("x", "y", "keystore://k#a"),
        lambda: pipecrypt.decrypt("x", "y", keys="keystore://k#a"),
        lambda: pipecrypt.decrypt("x", "y", keys=None),
        lambda: pipecrypt.verify("x", trust="alice.pub"),
        lambda: pipecrypt.decryption_properties(keys="keystore://k#a"),
    ):
        with pytest.raises(UsageError):
            call()
