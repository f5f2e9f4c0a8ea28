"""A source that a plan has found, and what decides which kind of task it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.errors import UsageError
from pipecrypt.formats.options import MAGIC_BYTES, guess_format, sniff_format
from pipecrypt.runs.spec.options import FileReading
from pipecrypt.runs.spec.spec import Spec
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile

__all__ = ["Candidate"]


@dataclass(frozen=True)
class Candidate:
    """A source of a run.

    Args:
        spec: what is asked for.
        source: the file, pinned.
        signed: what was signed about it, verified; None where nothing is compared.
    """

    spec: Spec
    source: SourceFile
    signed: SignedFile | None = field(default=None)

    @cached_property
    def reading(self) -> FileReading:
        """How the file is read, as the caller, its name or its first bytes say.

        Raises:
            FormatError: nothing says what it is.
            UsageError: it is standard input, which has no name.
            StorageError: the storage refused or failed.
        """
        location, reading = self.source.location, self.spec.reading
        if reading.format is None and location.is_standard_stream:
            hint = "say which it is: parquet, csv, json, arrow or orc; or encrypt it in chunks"
            raise UsageError("standard input has no name that tells its format", hint=hint)
        if reading.format is None and guess_format(location.name)[0] is None:
            # Only names that tell nothing cost a look into the file.
            sniffed = sniff_format(open_store(location).read_start(MAGIC_BYTES))
            reading = replace(reading, format=None if sniffed is None else sniffed.value)
        return reading.of(location.name, location.display)
