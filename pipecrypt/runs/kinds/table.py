"""Which kind of task a source becomes."""

from __future__ import annotations

from dataclasses import replace

from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.errors import UsageError
from pipecrypt.formats.options import MAGIC_BYTES, SourceFormat, guess_format, sniff_format
from pipecrypt.runs.kinds.blob import BlobEncryption
from pipecrypt.runs.kinds.decrypt import Decryption
from pipecrypt.runs.kinds.encrypt import Encryption
from pipecrypt.runs.kinds.ingest import Ingestion
from pipecrypt.runs.spec.options import FileReading, Reading
from pipecrypt.runs.spec.spec import Spec
from pipecrypt.runs.task import Kind
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store

__all__ = ["KindChooser"]


class KindChooser:
    """Chooses what is done with each of many sources; those whose names tell the same share one kind.

    Args:
        spec: what is asked for.
    """

    def __init__(self, spec: Spec) -> None:
        """Choose nothing yet."""
        self._spec = spec
        is_table = spec.policy is not None and not spec.policy.is_chunks
        self._looks_into_files = is_table and spec.reading.format is None  # where a name tells nothing
        self._by_extensions: dict[str, Kind] = {}

    def choose(self, location: Location, signed: SignedFile | None) -> Kind:
        """Return what is done with a source.

        Args:
            location: of the source.
            signed: what was signed about it, verified; None where nothing is compared.

        Raises:
            FormatError: nothing says what the file is.
            UsageError: it is standard input, which has no name.
            StorageError: the storage refused or failed.
        """
        name = location.name
        extensions = name[1:].partition(".")[2]  # a leading dot begins none
        kind = None if signed is not None else self._by_extensions.get(extensions)
        if kind is None:
            kind = _choose(self._spec, location, signed)
            if signed is None and not (self._looks_into_files and guess_format(name)[0] is None):
                self._by_extensions[extensions] = kind
        return kind


def _choose(spec: Spec, location: Location, signed: SignedFile | None) -> Kind:
    policy, engine_policy = spec.policy, spec.engine_policy
    if policy is None or engine_policy is None:
        return Decryption(spec.aad_prefix, signed, spec.checks.mode)
    if policy.is_chunks:
        return BlobEncryption(engine_policy, policy.chunk_bytes, policy.compresses_chunks)
    reading = _reading_of(location, spec.reading)
    if reading.format is SourceFormat.PARQUET:
        return Encryption(engine_policy)
    return Ingestion(engine_policy, reading, policy.encode_options(), spec.max_file_bytes)


def _reading_of(location: Location, reading: Reading) -> FileReading:
    """Return how a file is read, as the caller, its name or its first bytes say."""
    if reading.format is None and location.is_standard_stream:
        hint = "say which it is: parquet, csv, json, arrow or orc; or encrypt it in chunks"
        raise UsageError("standard input has no name that tells its format", hint=hint)
    if reading.format is None and guess_format(location.name)[0] is None:
        # Only names that tell nothing cost a look into the file.
        sniffed = sniff_format(open_store(location).read_start(MAGIC_BYTES))
        reading = replace(reading, format=None if sniffed is None else sniffed.value)
    return reading.of(location.name, location.display)
