from __future__ import annotations

from collections.abc import Callable

import pytest

from pipecrypt.errors import KeyServiceError
from pipecrypt.keys.service import WrappingMasterKey, bind_to_master_key, join_parts
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.secret import DataKey

HERE = Context(new_dataset_id(), "")


class Wrapping(WrappingMasterKey):
    def __init__(self, wrap: Callable[[DataKey, Context], bytes]) -> None:
        super().__init__("test/a")
        self._wrap = wrap

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        return self._wrap(key, context)


def test_a_key_that_could_not_be_wrapped_is_wiped() -> None:
    made: list[DataKey] = []

    def refuse(key: DataKey, context: Context) -> bytes:
        made.append(key)
        raise KeyServiceError("refused")

    with pytest.raises(KeyServiceError):
        Wrapping(refuse).generate_key(HERE)
    with pytest.raises(RuntimeError):
        made[0].expose_key_bytes()


def test_each_key_is_fresh_and_wrapped_in_its_context() -> None:
    def wrap(key: DataKey, context: Context) -> bytes:
        assert context is HERE
        return bytes(key.expose_key_bytes())

    first, second = (Wrapping(wrap).generate_key(HERE) for _ in range(2))
    assert first[0].expose_key_bytes() == first[1]
    assert first[1] != second[1]


def test_no_two_bindings_are_the_same() -> None:
    assert join_parts(b"a", b"bc") != join_parts(b"ab", b"c")
    assert join_parts(b"ab", b"") == b"00000002ab00000000"
    assert bind_to_master_key(b"l", "m", HERE) == b"00000001l00000001m" + HERE.key_binding()
