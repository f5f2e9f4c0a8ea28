"""Tell which files of a dataset's directory a version must list. Walking the directory is left to who writes or reads.

Writers and verifiers must agree on it: what one of them leaves out, the other would call an extra file.
"""

from __future__ import annotations

from typing import Final

from pipecrypt.manifest.paths import RESERVED_DIRECTORY, is_reserved
from pipecrypt.store.patterns import all_parquet_and_hidden
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.publication import is_temporary

__all__ = ["CHUNKS_SUFFIX", "ENCRYPTED_FILES", "is_data"]

# A file that holds another one's bytes says so in its name, so that decrypting gives back that name.
CHUNKS_SUFFIX: Final = ".chunks.parquet"
# A directory's encrypted files: those of a tree in chunks may be hidden. What a run has staged is in no place yet.
ENCRYPTED_FILES: Final = all_parquet_and_hidden(CHUNKS_SUFFIX, left_out=RESERVED_DIRECTORY)


def is_data(path: str, file: SourceFile | None) -> bool:
    """Say whether what an inventory found counts: nothing under `_pipecrypt/`, and no temporary file of a killed run.

    Args:
        path: below the dataset.
        file: the regular file there; None for what is not one. That counts whatever it is called: a link to a directory
            leads readers to whatever lies there, and no run makes one.
    """
    return not is_reserved(path) and (file is None or not is_temporary(path.rpartition("/")[2]))
