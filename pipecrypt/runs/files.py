"""The calls of an ETL script: `pipecrypt.encrypt` and `pipecrypt.decrypt`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipecrypt.dataset.requirements import checks_of, warn_unchecked
from pipecrypt.dataset.trust import Trust, given_trust
from pipecrypt.errors import UsageError
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.runs.report.events import Event, Summary, ignore
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import Reading, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import DecryptSpec, EncryptSpec
from pipecrypt.store.location import Location, Place

__all__ = ["decrypt", "encrypt", "encrypt_spec", "listed_keys"]


def encrypt(
    source: Place,
    sink: Place,
    policy: Policy,
    *,
    reading: Reading | None = None,
    max_file_bytes: int | None = None,
    source_options: Mapping[str, object] | None = None,
    sink_options: Mapping[str, object] | None = None,
    overwrite: bool = False,
    workers: int = 1,
    accept_future_statement: bool = False,
    credentials: Credentials | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> Summary:
    """Encrypt Parquet files without decoding them, other tables row by row, or any files in chunks.

    Args:
        source: a file, a directory (all files below it whose names tell a format; all files, in chunks) or a glob; a
            path or any fsspec URL.
        sink: a directory; or a file name, if the source is one file and no directory has that name.
        policy: what is encrypted under which key.
        reading: how sources are read that are not Parquet; default: as their names tell.
        max_file_bytes: size at which another output file is begun, for such sources.
        source_options: storage options of the source, for fsspec.
        sink_options: storage options of the sink.
        overwrite: replace files of the same path; otherwise a sink that holds anything is refused.
        workers: files encrypted at once, each in a process of its own; more than 1 needs a script that guards its
            start with `if __name__ == "__main__":`.
        accept_future_statement: go on with a dataset whose last signer's clock was ahead; its time is not undercut.
        credentials: what opens the keys; default: the environment of this process.
        on_event: told about progress.

    Raises:
        PipecryptError: see `pipecrypt.errors`; no partial file is left in the sink.
    """
    spec = encrypt_spec(
        source,
        sink,
        policy,
        reading=reading,
        max_file_bytes=max_file_bytes,
        source_options=source_options,
        sink_options=sink_options,
        overwrite=overwrite,
        workers=workers,
        accept_future_statement=accept_future_statement,
    )
    return run(spec, credentials=given_credentials(credentials), on_event=on_event)


def encrypt_spec(
    source: Place,
    sink: Place,
    policy: Policy,
    *,
    reading: Reading | None,
    max_file_bytes: int | None,
    source_options: Mapping[str, object] | None,
    sink_options: Mapping[str, object] | None,
    overwrite: bool,
    workers: int,
    accept_future_statement: bool,
) -> EncryptSpec:
    """Return what a call of `encrypt` with these arguments asks for.

    Raises:
        UsageError: an argument is malformed.
    """
    if not isinstance(policy, Policy):
        raise UsageError(
            "the policy is not a pipecrypt.Policy", hint="write Policy(default=KEYREF) or Policy(columns={...})"
        )
    return EncryptSpec(
        source=Location.of(source, source_options),
        sink=Location.of(sink, sink_options),
        policy=policy,
        reading=reading or Reading(),
        max_file_bytes=max_file_bytes,
        overwrite=overwrite,
        workers=workers,
        run=RunOptions(accept_future_statement=accept_future_statement),
    )


def decrypt(
    source: Place,
    sink: Place,
    keys: Sequence[str],
    *,
    trust: Trust | Sequence[str] | None = None,
    threshold: int | None = None,
    verify: str | None = None,
    min_version: int | None = None,
    dataset_id: str | None = None,
    aad_prefix: bytes | None = None,
    source_options: Mapping[str, object] | None = None,
    sink_options: Mapping[str, object] | None = None,
    overwrite: bool = False,
    workers: int = 1,
    credentials: Credentials | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> Summary:
    """Decrypt files, and return the counts.

    With keys to trust, the files must be those that were signed, none missing and none added, each as it was signed.

    Args:
        source: a file, a directory (all `*.parquet` below it) or a glob; a path or any fsspec URL.
        sink: as for `encrypt`.
        keys: key references; only these are ever used, whatever the files say.
        trust: whose signatures count and what must hold, as a `Trust`; or a list of public keys: PEM files, PEM texts
            or key references. Default: those in PIPECRYPT_TRUST. With none, nothing shows who wrote the files, and a
            warning says so once.
        threshold: deprecated, as the next three are: give a `Trust`.
        verify: likewise.
        min_version: likewise.
        dataset_id: likewise.
        aad_prefix: the AAD prefix of files that do not store it.
        source_options: storage options of the source, for fsspec.
        sink_options: storage options of the sink.
        overwrite: as for `encrypt`.
        workers: as for `encrypt`.
        credentials: what opens the keys; default: the environment of this process.
        on_event: told about progress.

    Raises:
        PipecryptError: see `pipecrypt.errors`; no partial file is left in the sink.
    """
    asked = given_trust(trust, threshold=threshold, verify=verify, min_version=min_version, dataset_id=dataset_id)
    given = given_credentials(credentials)
    spec = DecryptSpec(
        source=Location.of(source, source_options),
        sink=Location.of(sink, sink_options),
        keys=listed_keys(keys),
        aad_prefix=aad_prefix,
        checks=checks_of(asked, os.environ, given),
        overwrite=overwrite,
        workers=workers,
    )
    summary = run(spec, credentials=given, on_event=on_event)
    if spec.checks.warns:
        warn_unchecked()
    return summary


def listed_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the key references that a script gave.

    Raises:
        UsageError: they are not a list of texts.
    """
    if isinstance(keys, str) or not isinstance(keys, Iterable) or not all(isinstance(key, str) for key in keys):
        raise UsageError("the keys to decrypt with are a list of key references", hint="write keys=[...]")
    return tuple(keys)
