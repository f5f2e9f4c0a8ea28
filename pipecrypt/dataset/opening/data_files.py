"""Tell which files of a dataset's directory a version must list. Walking the directory is left to who writes or reads.

Writers and verifiers must agree on it: what one of them leaves out, the other would call an extra file.
"""

from __future__ import annotations

from pipecrypt.manifest.paths import is_reserved
from pipecrypt.storage.publication import is_temporary

__all__ = ["is_data"]


def is_data(path: str) -> bool:
    """Say whether a file counts: none under `_pipecrypt/`, and no temporary file of a run that was killed.

    Args:
        path: below the dataset.
    """
    return not is_reserved(path) and not is_temporary(path.rpartition("/")[2])
