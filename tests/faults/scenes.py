"""Sources, sinks and configurations of the fault suites, and what must hold of a sink whatever happened to its run.

Small files, a key file instead of a passphrase: a trial takes tens of milliseconds. Faults are left to the suites.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

import pipecrypt as pc
from pipecrypt.crypto.digest import digest
from pipecrypt.dataset.statement.findings import FindingKind
from pipecrypt.errors import NotTrustedError, VerificationError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs.journal.cleaning import clean
from pipecrypt.runs.report.events import Event, FileDone, Summary
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import OnSourceChange, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location

__all__ = [
    "SCENES",
    "Scene",
    "Shop",
    "StoppedError",
    "commitments",
    "contents",
    "in_one_process",
    "prepare",
    "repeated_keys",
    "stop",
    "write_source",
]

_COMMITMENT = re.compile(rb'"commitment":"([A-Za-z0-9+/=]{44})"')
_KEPT = re.compile(
    r"_pipecrypt/(manifest\.json|files/\d+-[0-9a-f]{16}\.jsonl|runs/[^/]+/(parts-\d+\.jsonl?|finished\.json|report\.json))"
)


@dataclass(frozen=True)
class Scene:
    """What a run has before it.

    Args:
        name: of the scene.
        is_signed: whether the dataset is signed.
        is_second: whether the sink holds an earlier version; sources changed, came and went since.
        kind: of the sources: `parquet`, `csv`, which are rolled over, or `chunks`.
        workers: processes.
    """

    name: str
    is_signed: bool = True
    is_second: bool = False
    kind: str = "parquet"
    workers: int = 1


SCENES = {
    scene.name: scene
    for scene in (
        Scene("first"),
        Scene("next", is_second=True),
        Scene("unsigned", is_signed=False),
        Scene("unsigned-next", is_signed=False, is_second=True),
        Scene("chunks", kind="chunks"),
        Scene("chunks-next", kind="chunks", is_second=True),
        Scene("csv", kind="csv"),
        Scene("csv-next", kind="csv", is_second=True),
        Scene("unsigned-csv", is_signed=False, kind="csv"),
        Scene("unsigned-csv-next", is_signed=False, is_second=True, kind="csv"),
        Scene("workers", workers=2),
        Scene("workers-next", workers=2, is_second=True),
    )
}


@dataclass(frozen=True)
class Shop:
    """One scene, set up: its keys, its sources, and a sink to copy for each trial.

    Args:
        scene: which.
        root: a directory of its own.
        sink: the sink of this trial; a path or URL.
        options: storage options of the sink.
        only_writer: whether to vouch that nobody else writes.
    """

    scene: Scene
    root: Path
    sink: str
    options: dict[str, object] = field(default_factory=dict)
    only_writer: bool = False

    @property
    def credentials(self) -> Credentials:
        return Credentials({"PIPECRYPT_KEY_FILE": str(self.root / "key")})

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def template(self) -> Path:
        return self.root / "template"

    def key(self, name: str) -> str:
        return f"keystore://{self.root}/keys.json#{name}"

    def at(self, sink: str | Path, **changes: object) -> Shop:
        """Return the same with another sink."""
        return replace(self, sink=str(sink), **changes)  # type: ignore[arg-type]

    def fresh(self, name: str) -> Shop:
        """Return the same with a copy of the sink as it was before the trial."""
        sink = self.root / "sinks" / name
        if self.template.exists():
            shutil.copytree(self.template, sink)
        return self.at(sink)

    def request(self, *, resumes: bool = False, overwrite: bool = False) -> EncryptSpec:
        scene = self.scene
        policy = Policy(
            {} if scene.kind == "chunks" else {"email": self.key("pii")},
            default=self.key("pii") if scene.kind == "chunks" else None,
            sign=self.key("signing") if scene.is_signed else None,
            mode="chunks" if scene.kind == "chunks" else "columns",
            **({"batch_rows": 10} if scene.kind == "csv" else {}),
        )
        return EncryptSpec(
            source=Location(str(self.raw)),
            sink=Location(self.sink, self.options),
            policy=policy,
            max_file_bytes=1500 if scene.kind == "csv" else None,
            overwrite=overwrite,
            workers=scene.workers,
            run=RunOptions(
                keeps_journal=True,
                resumes=resumes,
                on_source_change=OnSourceChange.REPLACE,
                is_only_writer=self.only_writer,
            ),
        )

    def run(self, *, resumes: bool = False, overwrite: bool = False) -> Summary:
        return run(self.request(resumes=resumes, overwrite=overwrite), credentials=self.credentials)

    def clean(self, grace: timedelta = timedelta()) -> tuple[str, ...]:
        return clean(self.sink, grace=grace, sink_options=self.options).removed

    def verify(self) -> int:
        """Verify a signed dataset, each page opened; return its version."""
        report = pc.verify(
            self.sink,
            [self.key("signing")],
            keys=[self.key("pii"), self.key("other")],
            storage_options=self.options,
            credentials=self.credentials,
        )
        return report.version

    def plaintext(self) -> Counter[object]:
        """Return what the sink holds, decrypted: rows, or whole files in chunks mode."""
        back = self.root / "back" / os.urandom(8).hex()
        pc.decrypt(
            self.sink,
            back,
            [self.key("pii"), self.key("other")],
            trust=[self.key("signing")] if self.scene.is_signed else None,
            verify="read" if self.scene.is_signed else "off",
            source_options=self.options,
            credentials=self.credentials,
        )
        found = contents(back, self.scene.kind)
        shutil.rmtree(back)
        return found

    def expected(self) -> Counter[object]:
        """Return what the sources hold now."""
        return contents(self.raw, self.scene.kind)

    def seen(self) -> Counter[object] | None:
        """Return what a reader is given, verified; None where there is no signed dataset yet."""
        try:
            self.check_stopped()
            return self.plaintext()
        except NotTrustedError:
            return None

    def check_stopped(self) -> None:
        """Verify what a run that was stopped left: it names what is not in place yet and what is left, and no more."""
        try:
            self.verify()
        except VerificationError as error:
            explained = {FindingKind.NOT_IN_PLACE, FindingKind.LEFT_OVER}
            findings = error.report.findings
            if {each.path for each in findings} - {each.path for each in findings if each.kind in explained}:
                raise

    def files(self) -> dict[str, bytes]:
        """Return all files of the sink."""
        if "://" in self.sink:
            fs, start = fsspec.core.url_to_fs(self.sink, use_listings_cache=False, **self.options)
            found = [path for path in fs.find(start) if path != start]  # of nothing it finds the start itself
            return {path[len(start) + 1 :]: fs.cat_file(path) for path in found}
        base = Path(self.sink)
        return {path.relative_to(base).as_posix(): path.read_bytes() for path in base.rglob("*") if path.is_file()}

    def leftovers(self) -> list[str]:
        """Return what is in the sink and belongs to no version and no finished run."""
        files = self.files()
        finished = {name.rpartition("/")[0] for name in files if name.endswith("/finished.json")}
        return sorted(name for name in files if _is_left(name, finished))


def _is_left(name: str, finished: set[str]) -> bool:
    if name.rpartition("/")[2].startswith("."):
        return True
    if not name.startswith("_pipecrypt/"):
        return False
    is_kept = _KEPT.fullmatch(name) is not None
    return not is_kept or ("/runs/" in name and name.rpartition("/")[0] not in finished)


def contents(folder: Path, kind: str) -> Counter[object]:
    found: Counter[object] = Counter()
    for path in folder.rglob("*"):
        if path.is_file() and kind == "chunks":
            found[path.relative_to(folder).as_posix(), digest(path.read_bytes())] += 1
        elif path.is_file():
            found.update(_rows(path))
    return found


def _rows(path: Path) -> list[object]:
    if path.suffix == ".csv":
        _, *lines = path.read_text().splitlines()
        return [line.partition(",")[2] for line in lines]
    return list(pq.read_table(path)["email"].to_pylist())


def commitments(files: dict[str, bytes]) -> dict[str, Counter[bytes]]:
    """Return, by the digest of each data file, how often each commitment to a data key stands in it."""
    data = {digest(content): content for name, content in files.items() if not name.endswith((".json", ".jsonl"))}
    return {name: Counter(_COMMITMENT.findall(content)) for name, content in data.items()}


def repeated_keys(*seen: dict[str, Counter[bytes]]) -> list[bytes]:
    """Return commitments that stand in two different files, or twice in one."""
    files = {name: found for each in seen for name, found in each.items()}
    total: Counter[bytes] = Counter()
    for found in files.values():
        total += found
    return [commitment for commitment, count in total.items() if count > 1]


def prepare(scene: Scene, root: Path) -> Shop:
    """Make keys and sources, and for a second run the first one."""
    (root / "key").write_bytes(os.urandom(32))
    (root / "key").chmod(0o600)
    shop = Shop(scene, root, str(root / "template"))
    create_key(shop.key("pii"), "aes256", shop.credentials)
    create_key(shop.key("other"), "aes256", shop.credentials)
    create_key(shop.key("signing"), "ed25519", shop.credentials)
    for name, rows in (("a", 60), ("day=1/b", 90), ("day=2/c", 30)):
        write_source(shop.raw, name, rows, scene.kind)
    if scene.is_second:
        in_one_process(shop).run()
        write_source(shop.raw, "day=1/b", 40, scene.kind, "new")
        write_source(shop.raw, "day=3/d", 20, scene.kind)
        next(shop.raw.glob("day=2/c*")).unlink()
    return shop


class StoppedError(Exception):
    """Stops a run in a test."""


def stop(shop: Shop, after: int) -> None:
    """Run until so many tasks are done, and stop there."""
    done = 0

    def count(event: Event) -> None:
        nonlocal done
        done += isinstance(event, FileDone)
        if done == after:
            raise StoppedError

    with contextlib.suppress(StoppedError):
        run(shop.request(), credentials=shop.credentials, on_event=count)
    assert done == after


def in_one_process(shop: Shop) -> Shop:
    return replace(shop, scene=replace(shop.scene, workers=1))


def write_source(raw: Path, name: str, rows: int, kind: str, word: str = "old") -> None:
    path = raw / f"{name}.{'csv' if kind == 'csv' else 'parquet'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    emails = [f"{word}-{name.replace('/', '.')}-{row}@example.org" for row in range(rows)]
    if kind == "csv":
        path.write_text("id,email\n" + "".join(f"{row},{email}\n" for row, email in enumerate(emails)))
    else:
        table = pa.table({"id": range(rows), "email": emails})
        pq.write_table(table, path, row_group_size=30)
