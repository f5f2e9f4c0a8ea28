"""The names that `import pipecrypt` gives."""

from __future__ import annotations

import ast
import importlib.metadata
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
        (alias,) = node.names
        home = f"{node.module}.errors" if alias.name == "errors" else f"{node.module}:{alias.name}"
        seen[alias.asname or alias.name] = home

    assert seen == pipecrypt._HOMES
    assert set(pipecrypt.__all__) == {*seen, "__version__"}


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="'pipecrypt' has no attribute 'nonsense'"):
        pipecrypt.nonsense  # type: ignore[attr-defined]  # noqa: B018


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
