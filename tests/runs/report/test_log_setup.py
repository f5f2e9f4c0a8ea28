from __future__ import annotations

import json
import logging

import pytest

from pipecrypt.runs.report.logs import JSONFormatter, LogFormat, LogSetup, current_logs, write_logs
from pipecrypt.runs.report.run_id import running


def test_lines_are_json_with_the_run_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    before = current_logs()
    write_logs(LogSetup(logging.INFO, LogFormat.JSON))
    assert current_logs() == LogSetup(logging.INFO, LogFormat.JSON)
    logger = logging.getLogger("pipecrypt.somewhere")
    try:
        with running("20261128T020000Z-00000000"):
            try:
                word = "hunter2"
                raise ValueError(f"the passphrase is {word}")
            except ValueError:
                logger.exception("could not\nopen %s", "a")
        logger.debug("not shown")
    finally:
        write_logs(before or LogSetup(logging.WARNING, LogFormat.TEXT))

    (line,) = capsys.readouterr().err.splitlines()
    document = json.loads(line)
    assert document["level"] == "error"
    assert document["logger"] == "pipecrypt.somewhere"
    assert document["message"] == "could not\nopen a"
    assert document["run_id"] == "20261128T020000Z-00000000"
    assert document["exception"]["type"] == "ValueError"
    assert "test_log_setup.py" in document["exception"]["at"][0]
    assert "hunter2" not in line


def test_time_is_in_utc() -> None:
    record = logging.LogRecord("pipecrypt", logging.INFO, "", 1, "x", (), None)
    record.created = 0.5
    line = json.loads(JSONFormatter(lambda: None).format(record))
    assert (line["time"], line["run_id"]) == ("1970-01-01T00:00:00.500+00:00", None)
