from __future__ import annotations

import pytest

from pipecrypt.config.document import parse_yaml
from pipecrypt.errors import ConfigError


def _value(text: str, **environ: str) -> object:
    return parse_yaml(b"a: " + text.encode(), "c.yaml", environ).root["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${X}", "x"),
        ("s3://${X}/${X}.parquet", "s3://x/x.parquet"),
        ("${UNSET:-default value}", "default value"),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY}", ""),
        ("${UNSET:-}", ""),
        ("${X:-default}", "x"),
        ("$$X and $${X}", "$X and ${X}"),
        ("costs 5$ or $5", "costs 5$ or $5"),
        ("'*[$]'", "*[$]"),
    ],
)
def test_variables_are_replaced(text: str, expected: str) -> None:
    assert _value(text, X="x", EMPTY="") == expected


def test_a_value_cannot_add_structure_or_further_variables() -> None:
    assert _value("${X}", X="y\nb: {c: 1}  # ${HOME} $$") == "y\nb: {c: 1}  # ${HOME} $$"


def test_values_are_replaced_everywhere_but_keys_are_not() -> None:
    document = parse_yaml(b"${X}: [{b: '${X}'}, 5, true, null]", "c.yaml", {"X": "x"})

    assert document.root == {"${X}": [{"b": "x"}, 5, True, None]}


@pytest.mark.parametrize("text", ["${UNSET}", "$UNSET", "${}", "${1X}", "${X", "${X-default}", "${X:default}"])
def test_what_cannot_be_replaced_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _value(f"'{text}'", X="x")

    assert caught.value.message.startswith("c.yaml:1:4: ")


def test_every_unset_variable_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(b"a: ${ONE}\nb:\n  - ${TWO}\n", "c.yaml", {})

    assert [line.split(": ")[0] for line in caught.value.message.splitlines()] == ["c.yaml:1:4", "c.yaml:3:5"]
    assert "ONE" in caught.value.message
    assert "TWO" in caught.value.message
