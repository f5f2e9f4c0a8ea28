"""Print how large the package is, as Markdown: `python -m tools.size [DIRECTORY]`.

Lines of code are lines that hold a token of a statement: neither blank, nor a comment, nor a docstring. Kinds are the
classes that a folder `kinds` defines; asking for one of them elsewhere is counted. The way of a run is measured, not
read: a small table is encrypted by `pipecrypt run`, and every file of the package in which a function was called until
the first byte of the output was written is counted, and every folder that holds such files.
"""

from __future__ import annotations

import ast
import io
import statistics
import subprocess
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FileSize", "kinds_of", "main", "measure", "measure_package"]

_SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}

# Runs in a process of its own: a profile function sees every call of the main thread.
_WAY_OF_A_RUN = """
import os, sys, tempfile
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
import pipecrypt
package = os.path.dirname(pipecrypt.__file__) + os.sep
seen, done = set(), []
class Written(BaseException): pass
def profile(frame, event, argument):
    name = frame.f_code.co_filename
    if event == "call" and not done and name.startswith(package):
        seen.add(name[len(package):])
        if frame.f_code.co_name == "write" and "data" in frame.f_code.co_varnames:
            done.append(name)
with tempfile.TemporaryDirectory() as directory:
    os.environ["PIPECRYPT_PASSPHRASE"] = "measured"
    os.environ["XDG_STATE_HOME"] = directory
    at = Path(directory)
    pq.write_table(pa.table({"email": ["a@example.com"]}), at / "in.parquet")
    (at / "run.yaml").write_text(
        "source: {url: in.parquet}\\nsink: {url: out.parquet}\\nencrypt: {columns: [{match: email, key: pii}]}\\n"
        "keys: {pii: 'keystore://./keys.json#pii'}\\nrun: {workers: 1}\\n")
    os.chdir(at)
    from pipecrypt.cli.main import main
    assert main(["keys", "new", "keystore://./keys.json#pii"]) in (0, None)
    sys.setprofile(profile)
    status = main(["run", "run.yaml"])
    sys.setprofile(None)
    assert status in (0, None) and done, (status, done)
folders = {os.path.dirname(name) for name in seen}
print("MEASURED", len(seen), len(folders))
"""


@dataclass(frozen=True, slots=True)
class FileSize:
    """What one file of the package holds."""

    path: Path
    lines: int
    code_lines: int
    classes: int
    protocols: int
    kind_checks: int


def measure_package(package: Path) -> list[FileSize]:
    """Measure every file below a directory."""
    kinds = kinds_of(package)
    return [measure(path, kinds) for path in sorted(package.rglob("*.py"))]


def kinds_of(package: Path) -> frozenset[str]:
    """Return the classes that folders called `kinds` define."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("kinds/*.py"))
    return frozenset(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))


def measure(path: Path, kinds: frozenset[str] = frozenset()) -> FileSize:
    """Count the lines of one file, its classes, and how often it asks of which of the `kinds` something is."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    checks = 0 if "kinds" in path.parts else sum(_asks_kind(node, kinds) for node in ast.walk(tree))
    return FileSize(
        path=path,
        lines=len(text.splitlines()),
        code_lines=len(_code_lines(text) - _docstring_lines(tree)),
        classes=len(classes),
        protocols=sum(any(map(_is_protocol, each.bases)) for each in classes),
        kind_checks=checks,
    )


def _code_lines(text: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {line for token in tokens if token.type not in _SKIPPED for line in range(token.start[0], token.end[0] + 1)}


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Return the lines of texts that are statements of their own, as those below attributes are too."""
    texts = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
    return {line for node in texts for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def _is_protocol(base: ast.expr) -> bool:
    named = base.value if isinstance(base, ast.Subscript) else base
    return ast.unparse(named).rpartition(".")[2] == "Protocol"


def _asks_kind(node: ast.AST, kinds: frozenset[str]) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        return any(isinstance(each, ast.Name) and each.id in kinds for each in ast.walk(node.args[1]))
    return isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name) and node.cls.id in kinds


def _way_of_a_run() -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", _WAY_OF_A_RUN], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    files, folders = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED")).split()[1:]
    return int(files), int(folders)


def main(arguments: list[str]) -> None:
    """Print the table of the package, and one line for each room."""
    package = Path(arguments[0] if arguments else Path(__file__).parents[1] / "pipecrypt")
    sizes = measure_package(package)
    if not sizes:
        raise SystemExit(f"{package} holds no Python file")
    files, folders = _way_of_a_run()
    largest = max(sizes, key=lambda each: each.lines)
    print("| | |\n|---|---|")
    print(f"| lines of code without blanks, comments, docstrings | {sum(each.code_lines for each in sizes):,} |")
    print(f"| lines | {sum(each.lines for each in sizes):,} |")
    print(f"| files / median lines | {len(sizes)} / {statistics.median(each.lines for each in sizes):.0f} |")
    print(f"| largest file | {largest.path.relative_to(package)}, {largest.lines} lines |")
    print(f"| classes / Protocols | {sum(each.classes for each in sizes)} / {sum(each.protocols for each in sizes)} |")
    print(f"| `isinstance` on kinds | {sum(each.kind_checks for each in sizes)} |")
    print(f"| files / folders between `pipecrypt run` and the first byte written | {files} / {folders} |")
    print("\n| room | files | lines of code | classes |\n|---|---|---|---|")
    rooms = Counter[str]()
    for each in sizes:
        rooms[_room(each.path, package)] += 1
    for room, count in sorted(rooms.items()):
        inside = [each for each in sizes if _room(each.path, package) == room]
        code, classes = sum(each.code_lines for each in inside), sum(each.classes for each in inside)
        print(f"| {room} | {count} | {code:,} | {classes} |")


def _room(path: Path, package: Path) -> str:
    folder = path.relative_to(package).parent.as_posix()
    return "pipecrypt" if folder == "." else f"{folder}/"


if __name__ == "__main__":
    main(sys.argv[1:])
