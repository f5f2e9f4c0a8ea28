"""Find the files of a signed version that have not reached their places yet. Moving them there: signing/staged_version.

A run that replaces files writes the new ones below its own directory, signs the version that lists them, and moves them
to their places then. So a version exists as a whole from the moment its statement appears, and a run that is killed
before leaves the version before as it was. Whoever reads looks there first. What lies there is compared with what was
signed like any other file: putting something there gains an attacker what replacing the file itself would.
"""

from __future__ import annotations

from pipecrypt.dataset.opening.data_files import is_data
from pipecrypt.manifest.paths import staged_path
from pipecrypt.storage.inventory import take_inventory
from pipecrypt.storage.listing import SourceFile
from pipecrypt.storage.location import Location

__all__ = ["staged_files"]


def staged_files(directory: Location, run_id: str | None) -> dict[str, SourceFile]:
    """Return the staged files of a version by their paths below the dataset; usually none.

    Args:
        directory: of the dataset.
        run_id: the run that the verified statement names.

    Raises:
        StorageError: the storage refused or failed.
    """
    if run_id is None:
        return {}
    found = take_inventory(directory.child(staged_path(run_id)), lambda _: True)
    return {path: file for path, file in found if file is not None and is_data(path)}
