"""The options that say whom to trust and how much to check."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.dataset.trust import VerifyMode

if TYPE_CHECKING:
    from pipecrypt.dataset.requirements import Checks
    from pipecrypt.keys.credentials import Credentials

__all__ = ["DatasetID", "MinVersion", "Threshold", "Trust", "Verify", "read_checks"]

Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="PUBKEY",
        help="Public key whose signature counts: a PEM file or a key reference; may be given several times. "
        "Default: those in PIPECRYPT_TRUST.",
    ),
]
Threshold = Annotated[int, typer.Option(min=1, help="How many of those must have signed: each --trust has one vote.")]
Verify = Annotated[
    VerifyMode,
    typer.Option(help="Check statement, footers and what is read; or every whole file first; or nothing."),
]
MinVersion = Annotated[int, typer.Option(min=1, help="Lowest version of the dataset that is accepted.")]
DatasetID = Annotated[str | None, typer.Option(metavar="HEX", help="The dataset that is meant; default: whichever.")]


def read_checks(
    trust: list[str] | None,
    credentials: Credentials,
    *,
    threshold: int,
    verify: VerifyMode,
    min_version: int,
    dataset_id: str | None,
) -> Checks:
    """Read the trusted keys, those of the environment where no option names one; proven with the secrets at hand.

    Raises:
        UsageError: an option is malformed, or something is demanded of signatures and no key is trusted.
        KeyReferenceError: a key reference is malformed, or has an unknown scheme.
        AccessError: a key reference names no key.
    """
    from pipecrypt.dataset import trust as options
    from pipecrypt.dataset.requirements import checks_of

    asked = options.Trust(
        trust or None, threshold=threshold, verify=verify, min_version=min_version, dataset_id=dataset_id
    )
    return checks_of(asked, os.environ, credentials)
