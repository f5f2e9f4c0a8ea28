from __future__ import annotations

import pytest

from pipecrypt.errors import KeyServiceError
from pipecrypt.keys.services.wrapping import bind_to_master_key, generate_and_wrap, join_parts
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.secret import DataKey

HERE = Context(new_dataset_id(), "")


def test_a_key_that_could_not_be_wrapped_is_wiped() -> None:
    made: list[DataKey] = []

    def refuse(key: DataKey, context: Context) -> bytes:
        made.append(key)
        raise KeyServiceError("refused")

    with pytest.raises(KeyServiceError):
        generate_and_wrap(refuse, HERE)
    with pytest.raises(RuntimeError):
        made[0].expose_key_bytes()


def test_each_key_is_fresh_and_wrapped_in_its_context() -> None:
    def wrap(key: DataKey, context: Context) -> bytes:
        assert context is HERE
        return bytes(key.expose_key_bytes())

    first, second = (generate_and_wrap(wrap, HERE) for _ in range(2))
    assert first[0].expose_key_bytes() == first[1]
    assert first[1] != second[1]


def test_no_two_bindings_are_the_same() -> None:
    assert join_parts(b"a", b"bc") != join_parts(b"ab", b"c")
    assert join_parts(b"ab", b"") == b"00000002ab00000000"
    assert bind_to_master_key(b"l", "m", HERE) == b"00000001l00000001m" + HERE.key_binding()
