"""The transport of Google's library, to a server on this machine and without credentials."""

from __future__ import annotations

from collections.abc import Callable

from google.auth.credentials import AnonymousCredentials
from google.cloud.kms_v1.services.key_management_service.transports.rest import KeyManagementServiceRestTransport


def transport_to(url: str) -> Callable[[], KeyManagementServiceRestTransport]:
    scheme, _, host = url.partition("://")
    return lambda: KeyManagementServiceRestTransport(host=host, url_scheme=scheme, credentials=AnonymousCredentials())
