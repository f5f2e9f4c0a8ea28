from __future__ import annotations

import pytest

from pipecrypt.config.document import MAX_CONFIG_BYTES, Position, parse_yaml
from pipecrypt.errors import ConfigError

_BOMB = b"\n".join(
    [b"l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    + [b"l%d: &l%d [%s]" % (n, n, b", ".join([b"*l%d" % (n - 1)] * 10)) for n in range(1, 9)]
)


def test_scalars_follow_yaml_1_2() -> None:
    data = b"a: [x, yes, on, 2026-01-02, 1.5, 0x10, 0o17, ~, true, '5', 1e3, -.inf]"

    root = parse_yaml(data, "c.yaml", {}).root

    assert root == {
        "a": ["x", "yes", "on", "2026-01-02", 1.5, 16, 15, None, True, "5", 1000.0, float("-inf")],
    }


def test_positions_of_keys_and_values() -> None:
    document = parse_yaml(b"source:\n  url: here\nkeys:\n  - {a: 1}\nempty:\n", "c.yaml", {})

    assert document.name_position(("source", "url")) == Position(2, 3)
    assert document.value_position(("source", "url")) == Position(2, 8)
    assert document.value_position(("keys", 0, "a")) == Position(4, 9)
    assert document.value_position(("empty",)) == Position(5, 1), "a value that is not there stands at its key"
    assert document.value_position(("source", "nothing", 7)) == document.value_position(("source",))


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_yaml("\ufeffa: é\n".encode(), "c.yaml", {}).root == {"a": "é"}


@pytest.mark.parametrize(
    ("data", "place", "part"),
    [
        (b"", "1:1", "empty"),
        (b"# nothing but a remark\n", "1:1", "empty"),
        (b"- a\n", "1:1", "mapping"),
        (b"just text", "1:1", "mapping"),
        (b"a: 1\nb: 2\na: 3\n", "3:1", "'a' stands here twice, first on line 1"),
        (b"a: {b: 1, b: 2}", "1:11", "twice"),
        (b"a:\n\tb: 1\n", "2:1", "tab"),
        (b"a: b: c", "1:5", "not YAML"),
        (b"a: 'open", "1:9", "not YAML"),
        (b"a: *nowhere", "1:4", "undefined alias"),
        (b"a: 1\n---\nb: 2\n", "2:1", "another document"),
        (b"a: \xff\n", "1:4", "UTF-8"),
        (b"x: 1\na: \x07\n", "2:4", "control character"),
        (b"a: !!python/object:os.system {}\n", "1:4", "not a kind of value"),
        (b"a: !!set {x}\n", "1:4", "not a kind of value"),
        (b"a: !list [x]\n", "1:4", "not a kind of value"),
        (b"a: {}\nb: !thing x\n", "2:4", "not a kind of value"),
        (b"a: !!binary aGVsbG8=", "1:4", "not a kind of value"),
        (b"1: a", "1:1", "a key must be text"),
        (b"? [a]\n: b", "1:3", "a key must be text"),
        (b"a: &x [*x]", "1:4", "deep"),
        (b"a: " + b"[" * 40 + b"]" * 40, "1:36", "deep"),
        (b"a: " + b"[" * 2_000, "1:1", "deep"),
        (_BOMB, "1:34", "20000 values"),
        (b"a" * (MAX_CONFIG_BYTES + 1), "1:1", "bytes"),
        (b"a: {b: ${X}}", "1:9", "not YAML"),
    ],
)
def test_what_is_no_configuration_is_refused_with_its_place(data: bytes, place: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(data, "c.yaml", {})

    assert part in caught.value.message
    assert caught.value.message.startswith(f"c.yaml:{place}: ")
    assert caught.value.hint
