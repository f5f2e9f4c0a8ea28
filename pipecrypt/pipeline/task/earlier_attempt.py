"""Open a task's output, in place of what an earlier attempt at the task has published. Writing it is left to task.

What a run encrypts says so: its AAD prefix names the dataset, which each run makes anew or goes on with, and the path.
Nobody has signed that. But whoever can plant a file that claims to be the run's could as well remove the run's own.
"""

from __future__ import annotations

from pipecrypt.context import Context
from pipecrypt.dataset.signed_file import written_as
from pipecrypt.errors import SinkNotEmptyError, StorageError
from pipecrypt.storage.inventory import pin
from pipecrypt.storage.location import Location
from pipecrypt.storage.sink import Publication, open_sink

__all__ = ["is_written_as", "open_output"]


def open_output(
    place: Location,
    *,
    overwrite: bool,
    token: str,
    earlier: Context | None = None,
    expected_bytes: int | None = None,
) -> Publication:
    """Open a new file at `place`, as `open_sink`.

    What an earlier attempt has published by now may be replaced. What appears from now on is of an attempt that works
    at the same time, or of somebody else: it stays, because its result may count already.

    Args:
        place: the file.
        overwrite: whether it may replace any file.
        token: the run's.
        earlier: what a file of an earlier attempt was written as; None where there was no such attempt.
        expected_bytes: about how large the file will be, where that is known.

    Raises:
        SinkNotEmptyError: a file is there, and may not be replaced.
        StorageError: the storage refused or failed.
    """
    try:
        return open_sink(place, overwrite=overwrite, token=token, expected_bytes=expected_bytes)
    except SinkNotEmptyError:
        if earlier is None or not is_written_as(place, earlier):
            raise
    return open_sink(place, overwrite=True, token=token, expected_bytes=expected_bytes)


def is_written_as(place: Location, context: Context) -> bool:
    """Say whether the file at a place says that it is of that dataset and path; no where it cannot be read."""
    try:
        found = pin(place, place.name)
    except StorageError:
        return False
    file = None if found is None else found[1]
    return file is not None and written_as(file) == context
