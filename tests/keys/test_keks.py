import pytest

from pipecrypt.crypto.aead import MAX_INVOCATIONS
from pipecrypt.keys.keyring import KEKCache, KEKLimits
from pipecrypt.vocabulary.secret import DataKey


class _Clock:
    now = 0.0

    def read(self) -> float:
        return self.now


def _key(number: int = 0) -> DataKey:
    return DataKey(bytes([number + 1]) * 32)


def _cache(**limits: float) -> tuple[KEKCache, _Clock]:
    clock = _Clock()
    return KEKCache(KEKLimits(**limits), clock.read), clock  # type: ignore[arg-type]


def test_a_kek_is_found_under_master_key_and_text() -> None:
    cache, _ = _cache()
    key = _key()
    cache.put("a", "text", key)
    assert cache.get("a", "text") is key
    assert cache.get("b", "text") is cache.get("a", "texts") is None


def test_age() -> None:
    cache, clock = _cache(age_seconds=10)
    key = _key()
    cache.put("a", "text", key)
    clock.now = 9.9
    assert cache.get("a", "text") is key
    clock.now = 10  # since it was made, not since it was used
    assert cache.get("a", "text") is None
    assert key.bits == 0


def test_uses() -> None:
    cache, _ = _cache(uses=3)
    key = _key()
    cache.put("a", "text", key)  # the first
    assert cache.get("a", "text") is cache.get("a", "text") is key
    assert cache.get("a", "text") is None
    assert key.bits == 0


def test_count_drops_what_was_used_longest_ago() -> None:
    cache, _ = _cache(count=2)
    keys = [_key(number) for number in range(3)]
    cache.put("a", "0", keys[0])
    cache.put("a", "1", keys[1])
    cache.get("a", "0")
    cache.put("a", "2", keys[2])
    assert [key.bits for key in keys] == [256, 0, 256]
    assert cache.get("a", "1") is None


def test_bytes_of_texts() -> None:
    cache, _ = _cache(text_bytes=100)
    keys = [_key(number) for number in range(4)]
    for number in range(3):
        cache.put("a", f"{number}" * 40, keys[number])
    assert [key.bits for key in keys[:3]] == [0, 256, 256]
    cache.put("a", "x" * 1000, keys[3])  # longer than all together: it still serves
    assert [key.bits for key in keys] == [0, 0, 0, 256]
    assert cache.get("a", "x" * 1000) is keys[3]


def test_old_keks_are_wiped_though_nobody_asks_for_them() -> None:
    cache, clock = _cache(age_seconds=10)
    old, new = _key(0), _key(1)
    cache.put("a", "old", old)
    clock.now = 20
    cache.put("a", "new", new)
    assert (old.bits, new.bits) == (0, 256)


def test_wipe() -> None:
    cache, _ = _cache()
    key = _key()
    cache.put("a", "text", key)
    cache.wipe()
    cache.wipe()
    assert key.bits == 0
    assert cache.get("a", "text") is None
    assert cache._text_bytes == 0


def test_nothing_of_a_key_is_shown() -> None:
    cache, _ = _cache()
    cache.put("a", "text", _key())
    assert "01" not in repr(cache._entries)


@pytest.mark.parametrize(
    "limits",
    [{"age_seconds": 0}, {"uses": 0}, {"uses": MAX_INVOCATIONS + 1}, {"count": 0}, {"text_bytes": 0}, {"wrong": 0}],
)
def test_limits_let_something_pass(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="limit"):
        KEKLimits(**limits)
