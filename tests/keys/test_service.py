import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pipecrypt.errors import KeyReferenceError, MissingExtraError
from pipecrypt.keys import schemes, service
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.service import MasterKey, check_key_reference, known_schemes, open_key_reference
from pipecrypt.testing import MemoryKeyService, MemoryMasterKey


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "good": EntryPoint("good", "pipecrypt.testing:MemoryKeyService", service._GROUP),
        "broken": EntryPoint("broken", "no_such_package:SERVICE", service._GROUP),
        "keystore": EntryPoint("keystore", "no_such_package:SERVICE", service._GROUP),
    }
    monkeypatch.setattr(service, "_plugged_in", lambda: points)


def test_built_in_schemes_are_known_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_plugged_in", dict)
    assert known_schemes() == tuple(sorted(service._BUILT_IN))
    assert {"keystore", "pem", "static"} <= set(known_schemes())
    files = Path(schemes.__file__).parent.glob("*.py")
    with_service = {file.stem.replace("_", "-") for file in files if re.search(r"^SERVICE\b", file.read_text(), re.M)}
    assert with_service == service._BUILT_IN
    assert check_key_reference("keystore://x#a").fragment == "a"


def test_unknown_scheme_names_the_nearest() -> None:
    for text in ("keystor://x#a", "kestore://x#a"):
        with pytest.raises(KeyReferenceError) as caught:
            check_key_reference(text)
        assert "keystore" in caught.value.hint
    with pytest.raises(KeyReferenceError) as caught:
        open_key_reference("memory://x", Credentials({}))
    assert "static" in caught.value.hint


@pytest.mark.usefixtures("plugged_in")
def test_plug_ins_are_loaded_when_asked_for() -> None:
    assert check_key_reference("broken://x").scheme == "broken"
    with pytest.raises(MissingExtraError):
        open_key_reference("broken://x", Credentials({}))
    # The entry point names a class here, so its method lacks `self`: it was loaded, and that is all that counts.
    with pytest.raises(TypeError):
        open_key_reference("good://x", Credentials({}))


@pytest.mark.usefixtures("plugged_in")
def test_no_plug_in_takes_over_a_scheme_of_ours() -> None:
    reference = check_key_reference("keystore://x#a")
    assert type(service.load_key_service(reference)).__name__ == "KeystoreService"


def test_given_services_come_first(memory: MemoryKeyService) -> None:
    opened = open_key_reference("memory://a", Credentials({}), services={"memory": memory})
    assert isinstance(opened, MemoryMasterKey)
    assert isinstance(opened, MasterKey)
    assert opened.id == "memory/a"
