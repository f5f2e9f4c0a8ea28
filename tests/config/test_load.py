from __future__ import annotations

from pathlib import Path

import pytest

from pipecrypt.config.load import LoadedConfig, build_spec, load_config
from pipecrypt.errors import ConfigError

_GOOD = """\
source: {url: a.parquet}
sink: {url: out/}
encrypt:
  columns:
    - {match: x, key: pii}
keys:
  pii: keystore://./k.json#pii
"""


def _load(tmp_path: Path, text: str, **environ: str) -> LoadedConfig:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, environ)


def test_defaults(tmp_path: Path) -> None:
    model = _load(tmp_path, _GOOD).model

    assert model.encrypt.columns[0].match == ("x",)
    assert (model.encrypt.footer, model.encrypt.data_keys, model.encrypt.mode) == ("plaintext", "batch", "columns")
    assert model.encrypt.bind_path
    assert not model.encrypt.uniform
    assert model.run.workers == 1


def test_numbers_and_booleans_may_come_from_variables(tmp_path: Path) -> None:
    text = _GOOD.replace("encrypt:\n", "encrypt:\n  bind_path: ${BIND}\n") + "run:\n  workers: ${WORKERS:-3}\n"

    model = _load(tmp_path, text, BIND="false").model

    assert not model.encrypt.bind_path
    assert model.run.workers == 3


@pytest.mark.parametrize(
    ("old", "new", "place", "part", "hint"),
    [
        ("columns", "colums", "4:3", "unknown key 'colums' in encrypt", "'columns'"),
        ("keys:", "run: {worker: 2}\nkeys:", "6:7", "unknown key 'worker' in run", "'workers'"),
        ("keys:", "signed: x\nkeys:", "6:1", "unknown key 'signed'", "'sign'"),
        ("keys:", "others: x\nkeys:", "6:1", "unknown key 'others'", "valid here: source, sink"),
        ("keys:", "sign: pi\nkeys:", "6:7", "no key 'pi' under `keys`", "'pii'"),
        ("keys:", "sign: [pii, pi]\nkeys:", "6:13", "no key 'pi' under `keys`", "'pii'"),
        ("keys:", "sign: {keys: [pii, pi]}\nkeys:", "6:20", "no key 'pi' under `keys`", "'pii'"),
        ("keys:", "sign: keystor://./k.json#s\nkeys:", "6:7", "unknown scheme 'keystor'", "keystore"),
        ("keys:", "sign: {keys: pii, valid_for: 30}\nkeys:", "6:30", "sign.valid_for must be text", "schema"),
        ("keys:", "sign: {keys: pii, valid_for: 30m}\nkeys:", "6:30", "'30m' is not a time", "30d"),
        ("keys:", "sign: {keys: pii, digest: md5}\nkeys:", "6:27", "cannot be 'md5'", "sha256"),
        ("keys:", "sign: {key: pii, keys: pii}\nkeys:", "6:8", "unknown key 'key' in sign", "valid here"),
        ("keys:", "sign: {digest: sha256}\nkeys:", "6:7", "sign has no 'keys'", "add `keys:`"),
        ("keys:", "sign: 3\nkeys:", "6:7", "sign must be a key, a list of keys, or a mapping", "schema"),
        ("keys:", "sign: []\nkeys:", "6:7", "sign must be filled in", "schema"),
        ("keys:", "sign: [a, 1]\nkeys:", "6:11", "sign[1] must be text", "schema"),
        ("key: pii", "key: pi", "5:23", "no key 'pi'", "'pii'"),
        ("key: pii", "key: keystore://./k.json#pii", "5:23", "not a name under `keys`", "name"),
        ("match: x", "match: 5", "5:15", "text or a list of text", "schema"),
        ("match: x", "match: []", "5:15", "filled in", "schema"),
        ("match: x", "match: [a, 1]", "5:19", "match[1] must be text", "schema"),
        ("match: x", "match: ''", "5:15", "filled in", "schema"),
        ("encrypt:", "encrypt:\n  footer: encryptd", "4:11", "cannot be 'encryptd'", "'encrypted'"),
        ("encrypt:", "encrypt:\n  mode: pages", "4:9", "cannot be 'pages'", "columns"),
        ("encrypt:", "encrypt:\n  uniform: maybe", "4:12", "true or false", "schema"),
        ("keys:", "run: {workers: true}\nkeys:", "6:16", "a whole number", "schema"),
        ("keys:", "run: {workers: 0}\nkeys:", "6:16", "at least 1", "schema"),
        ("keys:", "run: {workers: 1000}\nkeys:", "6:16", "at most 256", "schema"),
        ("keys:", "run:\nkeys:", "6:1", "run must be filled in", "remove the line"),
        ("keys:", "sign:\nkeys:", "6:1", "sign must be filled in", "remove the line"),
        ("keys:", "sign: ~\nkeys:", "6:7", "sign must be filled in", "remove the line"),
        ("encrypt:", "encrypt:\n  default:", "4:3", "encrypt.default must be filled in", "remove the line"),
        ("match: x", "match: [a, ~]", "5:19", "match[1] must be filled in", "remove the line"),
        ("{url: a.parquet}", "a.parquet", "1:9", "source must be a mapping", "schema"),
        ("{url: a.parquet}", "{}", "1:9", "source has no 'url'", "add `url:`"),
        ("{url: a.parquet}", "{url: ''}", "1:15", "filled in", "schema"),
        ("keystore:", "keystor:", "7:8", "unknown scheme 'keystor'", "keystore"),
        ("keystore://./k.json#pii", "nonsense", "7:8", "nonsense", "key reference"),
    ],
)
def test_every_problem_has_its_place_and_a_hint(
    tmp_path: Path, old: str, new: str, place: str, part: str, hint: str
) -> None:
    text = _GOOD.replace(old, new, 1)

    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)

    assert caught.value.message.startswith(f"{tmp_path}/c.yaml:{place}: ")
    assert "\n" not in caught.value.message
    assert part in caught.value.message
    assert hint in caught.value.hint


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        _GOOD.replace("sink:", "snk:").replace("encrypt:", "encrypt:\n  data_keys: fil").replace("match:", "matches:")
    )

    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)

    lines = caught.value.message.splitlines()
    assert [line.removeprefix(f"{tmp_path}/c.yaml:").split(":")[0] for line in lines] == ["1", "2", "4", "6", "6"]
    assert lines[0].endswith("the configuration has no 'sink' (add `sink:`)")
    assert lines[1].endswith("unknown key 'snk' (did you mean 'sink'?)")
    assert lines[2].endswith("encrypt.data_keys cannot be 'fil' (did you mean 'file'?)")
    assert lines[4].endswith("unknown key 'matches' in encrypt.columns[0] (did you mean 'match'?)")


def test_values_never_stand_in_messages(tmp_path: Path) -> None:
    text = _GOOD.replace("{url: a.parquet}", "{url: [hunter2], options: {secret: ${SECRET}}}")

    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text.replace("${SECRET}", "'${SECRET}'"), SECRET="hunter2")

    assert "hunter2" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        load_config(tmp_path / name, {})


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        ("pii", ("keystore://./k.json#pii",)),
        ("pkcs11_name", None),
        ("keystore://./k.json#s", ("keystore://./k.json#s",)),
        ("[pii, 'pem:///k.pem']", ("keystore://./k.json#pii", "pem:///k.pem")),
        ("{keys: pii}", ("keystore://./k.json#pii",)),
    ],
)
def test_signing_keys_are_names_or_references(tmp_path: Path, sign: str, expected: tuple[str, ...] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError):
            _load(tmp_path, f"{_GOOD}sign: {sign}\n")
    else:
        found = build_spec(_load(tmp_path, f"{_GOOD}sign: {sign}\n")).policy.sign
        assert found == tuple(each.replace("://./", f"://{tmp_path}/") for each in expected)


def test_nothing_is_signed_by_default(tmp_path: Path) -> None:
    assert build_spec(_load(tmp_path, _GOOD)).policy.sign is None
