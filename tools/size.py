"""Print how large the package is, as Markdown: `python -m tools.size [DIRECTORY]`.

Lines of code are lines that hold a token of a statement: neither blank, nor a comment, nor a docstring. The way of a
run is measured, not read: a small table is encrypted by `pipecrypt run`, and every file of the package in which a
function was called until the first byte of the output was written is counted, and every folder that holds such files.
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

__all__ = ["FileSize", "main", "measure"]

_SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_KINDS = {"Encryption", "Ingestion", "ChunkEncryption", "BlobEncryption", "Decryption", "Operation"}

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


def measure(path: Path) -> FileSize:
    """Count the lines of one file, its classes, and how often it asks of which kind an operation is."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return FileSize(
        path=path,
        lines=len(text.splitlines()),
        code_lines=len(_code_lines(text) - _docstring_lines(tree)),
        classes=len(classes),
        protocols=sum(any("Protocol" in ast.unparse(base) for base in each.bases) for each in classes),
        kind_checks=sum(map(_asks_kind, ast.walk(tree))),
    )


def _code_lines(text: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {line for token in tokens if token.type not in _SKIPPED for line in range(token.start[0], token.end[0] + 1)}


def _docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            if first is not None:
                lines |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def _asks_kind(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        return any(isinstance(each, ast.Name) and each.id in _KINDS for each in ast.walk(node.args[1]))
    return isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name) and node.cls.id in _KINDS


def _way_of_a_run() -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", _WAY_OF_A_RUN], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    files, folders = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED")).split()[1:]
    return int(files), int(folders)


def main(arguments: list[str]) -> None:
    """Print the table of the package, and one line for each room."""
    package = Path(arguments[0] if arguments else Path(__file__).parents[1] / "pipecrypt")
    sizes = [measure(path) for path in sorted(package.rglob("*.py"))]
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
