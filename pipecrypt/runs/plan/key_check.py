"""Look whether the keys of a policy are there, without opening one. Opening them is left to executors and signing.

What a key service sees without a secret is enough to find a keystore that nobody made, or a name that is not in it,
before a run is started at night. Where its secret is at hand, a keystore is authenticated first. Services elsewhere are
not called, and nobody is asked.
"""

from __future__ import annotations

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.service import check_key_exists
from pipecrypt.runs.spec.policy import Policy

__all__ = ["check_keys"]


def check_keys(policy: Policy, credentials: Credentials) -> None:
    """Pass if all keys that a run needs are there, as far as that can be seen with what is at hand.

    Args:
        policy: names the keys that encrypt, those that open everything too, and those that sign.
        credentials: what may hold the secrets.

    Raises:
        AccessError: one is missing; the hint names the command that makes it. Or a secret at hand is wrong.
        DamagedKeystoreError: a keystore was changed by somebody without its secret.
        UsageError: one is for something else: a signing key where one that encrypts is due, or the other way round.
    """
    for reference in (*policy.engine_policy().key_references(), *policy.also):
        check_key_exists(reference, credentials, signs=False)
    if policy.signing is not None:
        for reference in policy.signing.key_references:
            check_key_exists(reference, credentials, signs=True)
