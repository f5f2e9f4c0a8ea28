import logging

import pytest

from pipecrypt.keys.services.quiet import quiet_loggers

NAMES = ("some.sdk", "some.sdk.transport")


def test_debug_records_are_dropped_inside_of_the_block_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(2):
        with quiet_loggers(NAMES):
            for name in NAMES:
                logging.getLogger(name).debug("secret")
                logging.getLogger(name).warning("trouble")
            logging.getLogger("other").debug("other")
        logging.getLogger(NAMES[0]).debug("later")
    assert [record.message for record in caplog.records] == ["trouble", "trouble", "other", "later"] * 2


def test_an_error_ends_the_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ZeroDivisionError), quiet_loggers(NAMES):
        _ = 1 / 0
    logging.getLogger(NAMES[0]).debug("later")
    assert caplog.messages == ["later"]
