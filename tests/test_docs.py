"""What the documentation shows is real: commands and their output, Python, YAML, links.

Each page's ```console blocks run in order in a directory of their own, which holds people.parquet and has a key
file. Only the words of an output count, not its numbers, ids and times. PIPECRYPT_UPDATE_DOCS=1 writes the outputs
anew. Blocks marked ```sh are not run; ```py blocks show the file of docs/examples that is named before them, which
tests/recipes runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipecrypt.config.load import load_config

_ROOT = Path(__file__).parents[1]
_PAGES = sorted([_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLE = re.compile(r"^<!-- (?P<name>examples/\w+\.py) -->\n```py\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_NAMED_FILE = re.compile(r"(?<![\w/])(?:pipecrypt|tests|benchmarks|tools)/[\w/]+\.py\b")
_UPDATES = os.environ.get("PIPECRYPT_UPDATE_DOCS", "") not in {"", "0"}


def _page_name(page: Path) -> str:
    return page.relative_to(_ROOT).as_posix()


def _pages_with(kind: str) -> list[Path]:
    return [page for page in _PAGES if f"```{kind}\n" in page.read_text(encoding="utf-8")]


def _blocks(page: Path, kind: str) -> list[str]:
    return [match["body"] for match in _BLOCK.finditer(page.read_text(encoding="utf-8")) if match["kind"] == kind]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "machine.key").write_bytes(os.urandom(32))
    (tmp_path / "machine.key").chmod(0o600)
    for name in ("PIPECRYPT_PASSPHRASE", "PIPECRYPT_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIPECRYPT_KEY_FILE", str(tmp_path / "machine.key"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    subprocess.run([sys.executable, _ROOT / "docs/examples/make_people.py"], check=True)
    return tmp_path


def _run(command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", f'pipecrypt() {{ "{sys.executable}" -m pipecrypt "$@"; }}; {command}'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout.rstrip("\n")


def _session(body: str, place: Path) -> str:
    """Return a block with every command's real output; whole paths show a place that every reader may have."""
    commands = re.findall(r"^\$ (.*(?:\\\n.*)*)$", body, re.MULTILINE)
    outputs = [_run(command).replace(str(place), "/data") for command in commands]
    return "".join(
        f"$ {command}\n{output}\n" if output else f"$ {command}\n"
        for command, output in zip(commands, outputs, strict=True)
    )


def _words(text: str) -> list[str]:
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-f]{32}\b|\b[0-9a-f]{64}\b|[A-Za-z0-9+/]{43}=", "ID", text)
    text = re.sub(r"\d[\d.,:TZ-]*", "N", text)
    return re.sub(r"-+", "-", text).split()


@pytest.mark.parametrize("page", _pages_with("console"), ids=_page_name)
def test_commands_answer_as_shown(page: Path, place: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for body in _blocks(page, "console"):
        real = _session(body, place)
        if _UPDATES:
            text = text.replace(body, real)
            page.write_text(text, encoding="utf-8")
        else:
            assert _words(real) == _words(body)


@pytest.mark.parametrize("page", _pages_with("python"), ids=_page_name)
def test_python_runs(page: Path, place: Path) -> None:
    _run("pipecrypt keys new keystore://./keys.json#pii; pipecrypt keys new keystore://./keys.json#payment")
    _run("pipecrypt keys new keystore://./keys.json#signing --type ed25519")
    code = "\n".join(_blocks(page, "python"))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", _pages_with("py"), ids=_page_name)
def test_pages_show_examples_as_they_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    examples = list(_EXAMPLE.finditer(text))
    assert len(examples) == text.count("```py\n")
    for example in examples:
        real = (_ROOT / "docs" / example["name"]).read_text(encoding="utf-8")
        if _UPDATES:
            text = text.replace(example.group(), f"<!-- {example['name']} -->\n```py\n{real}```")
            page.write_text(text, encoding="utf-8")
        else:
            assert example["body"] == real


@pytest.mark.parametrize("page", _pages_with("yaml"), ids=_page_name)
def test_configurations_load(page: Path, place: Path) -> None:
    for body in _blocks(page, "yaml"):
        if body.startswith("source:"):
            (place / "page.yaml").write_text(body, encoding="utf-8")
            load_config(place / "page.yaml", {"BUCKET": "b"})


@pytest.mark.parametrize("page", _PAGES, ids=_page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for match in _LINK.finditer(page.read_text(encoding="utf-8")):
        target = match["target"].partition("#")[0]
        if target and "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme_or_the_architecture() -> None:
    linked = {
        (page.parent / match["target"].partition("#")[0]).resolve()
        for page in _PAGES
        for match in _LINK.finditer(page.read_text(encoding="utf-8"))
    }
    assert set(_PAGES) - linked - {_ROOT / "README.md"} == set()


@pytest.mark.parametrize("page", [*_PAGES, _ROOT / "Makefile", _ROOT / "pyproject.toml"], ids=_page_name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = set(_NAMED_FILE.findall(page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (_ROOT / name).is_file()] == []
