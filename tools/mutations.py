"""Switch off the most important checks, one at a time, to see that tests fail: `python -m tools.mutations [NAME...]`.

The working tree is copied to a temporary directory. There the named tests must pass as they are; then each mutation is
made, its tests run, and the change is taken back. A mutation that no test notices makes the command fail. `--list`
prints the table without running anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTATIONS", "Mutation", "main", "mutate"]

_ROOT = Path(__file__).resolve().parent.parent
_COPIED = ("benchmarks", "configs", "docs", "examples", "pipecrypt", "tests", "tools", "README.md", "pyproject.toml")
_PASSED, _FAILED = 0, 1  # exit codes of pytest


@dataclass(frozen=True, slots=True)
class Mutation:
    """One check, and how it is switched off.

    Args:
        name: of the check, for the command line.
        meaning: what it makes sure of.
        path: of the file, from the root of the repository.
        old: text that occurs once in the file.
        new: what takes its place.
        tests: files or directories of tests of which at least one must fail.
    """

    name: str
    meaning: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "signatures",
        "enough trusted parties signed a statement",
        "pipecrypt/keys/trust.py",
        "if len(votes) < self.threshold:",
        "if False:",
        ("tests/keys/test_trust.py",),
    ),
    Mutation(
        "version",
        "a statement is not older than the one that was accepted before",
        "pipecrypt/dataset/statement/envelope.py",
        "if version < remembered.version:",
        "if False:",
        ("tests/dataset/sign/test_signers.py",),
    ),
    Mutation(
        "list",
        "the list of files is the one that the statement names",
        "pipecrypt/dataset/statement/envelope.py",
        "if digest(file_list) != summary.sha256:",
        "if False:",
        (
            "tests/dataset/test_version.py",
            "tests/dataset/statement",
        ),
    ),
    Mutation(
        "footer",
        "a file has the signed size and footer, before anything of it is parsed",
        "pipecrypt/dataset/signed_file.py",
        "        if findings:\n            refuse(_named(signed, found) or findings",
        "        if False:\n            refuse(_named(signed, found) or findings",
        ("tests/reading/test_trust.py",),
    ),
    Mutation(
        "promise",
        "a column that was promised to be encrypted is encrypted",
        "pipecrypt/dataset/signed_file.py",
        "if not column.is_encrypted:",
        "if False:",
        ("tests/dataset/verify/test_verification.py",),
    ),
    Mutation(
        "digests",
        "plaintext parts of a file are those that were written",
        "pipecrypt/parquet/pages/integrity.py",
        "if self._digests[at : at + DIGEST_BYTES] != bytes.fromhex(hex_digest):",
        "if False:",
        ("tests/parquet/test_integrity.py",),
    ),
    Mutation(
        "commitment",
        "a data key is the one that was used at this place",
        "pipecrypt/crypto/mac.py",
        "if not hmac.compare_digest(commit(key, binding), commitment):",
        "if False:",
        ("tests/crypto/test_commitment.py",),
    ),
    Mutation(
        "clear",
        "statistics of an encrypted column do not reach the output",
        "pipecrypt/parquet/wire/fields.py",
        "CLEAR: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 14, 15})",
        "CLEAR: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15})",
        ("tests/parquet/test_engine.py",),
    ),
    Mutation(
        "links",
        "no symbolic link below a sink is followed",
        "pipecrypt/store/beneath.py",
        "_BELOW: Final = _THROUGH | os.O_NOFOLLOW",
        "_BELOW: Final = _THROUGH",
        ("tests/store/test_beneath.py",),
    ),
    Mutation(
        "condition",
        "an upload replaces no object that another writer stored meanwhile",
        "pipecrypt/store/s3_object.py",
        'return {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}',
        "return {}",
        ("tests/store/test_s3_sink.py",),
    ),
    Mutation(
        "journal",
        "only records that the run's own keys signed are resumed",
        "pipecrypt/dataset/sign/signers.py",
        "self.trust().verify(message_to_sign(untrusted.payload, payload_type=payload_type), untrusted.signatures)",
        "message_to_sign(untrusted.payload, payload_type=payload_type)",
        ("tests/faults/test_journal_tampering.py",),
    ),
    Mutation(
        "keystore",
        "a keystore is not older than it was when it was seen last",
        "pipecrypt/keys/schemes/keystore_file.py",
        "if document.counter < counter:",
        "if False:",
        ("tests/keys/schemes/test_keystore_seal.py",),
    ),
    Mutation(
        "allowance",
        "a hostile footer takes no more memory than its size explains",
        "pipecrypt/parquet/wire/thrift_read.py",
        "        if self.left < 0:\n",
        "        if False:\n",
        ("tests/parquet/test_footer_bounds.py",),
    ),
)


def mutate(mutation: Mutation, root: Path) -> str:
    """Switch a check off in the tree at `root`; returns the text of the file before.

    Raises:
        RuntimeError: the text to replace does not occur exactly once.
    """
    path = root / mutation.path
    before = path.read_text(encoding="utf-8")
    if before.count(mutation.old) != 1:
        raise RuntimeError(f"{mutation.path} has the text of {mutation.name!r} {before.count(mutation.old)} times")
    path.write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
    return before


def _run_tests(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not long", *tests]
    environ = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    failures = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, failures[0] if failures else done.stdout.strip().rpartition("\n")[2]


def _copy_tree(target: Path) -> None:
    for name in _COPIED:
        source = _ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / name)


def main(arguments: Sequence[str]) -> None:
    """Print a Markdown table: each check, and the first test that fails without it.

    Raises:
        SystemExit: a name is unknown, the tests fail as they are, or no test notices a mutation.
    """
    names = [each for each in arguments if not each.startswith("-")]
    unknown = sorted(set(names) - {each.name for each in MUTATIONS})
    if unknown:
        raise SystemExit(f"no mutation is called {', '.join(unknown)}")
    chosen = [each for each in MUTATIONS if not names or each.name in names]
    is_list = "--list" in arguments
    print(f"| check | what it makes sure of | {'file' if is_list else 'first test that fails'} |")
    print("|---|---|---|")
    if is_list:
        for each in chosen:
            print(f"| {each.name} | {each.meaning} | `{each.path}` |")
        return
    with tempfile.TemporaryDirectory(prefix="pipecrypt-mutations-") as directory:
        root = Path(directory)
        _copy_tree(root)
        tests = sorted({test for each in chosen for test in each.tests})
        status, line = _run_tests(root, tests)
        if status != _PASSED:
            raise SystemExit(f"the tests fail without a mutation: {line}")
        unnoticed = [each.name for each in chosen if not _is_noticed(each, root)]
    if unnoticed:
        raise SystemExit(f"no test notices: {', '.join(unnoticed)}")


def _is_noticed(mutation: Mutation, root: Path) -> bool:
    before = mutate(mutation, root)
    status, line = _run_tests(root, mutation.tests)
    (root / mutation.path).write_text(before, encoding="utf-8")
    print(f"| {mutation.name} | {mutation.meaning} | {line if status == _FAILED else 'NONE'} |", flush=True)
    return status == _FAILED


if __name__ == "__main__":
    main(sys.argv[1:])
