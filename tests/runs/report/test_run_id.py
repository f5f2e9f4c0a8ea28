from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

from pipecrypt.runs.report.run_id import current_run_id, is_run_id, new_run_id, running


def test_ids_are_in_utc_and_sort_by_time() -> None:
    now = datetime(2026, 11, 28, 1, 0, tzinfo=timezone(timedelta(hours=2)))

    run_id = new_run_id(now, lambda count: b"\xab" * count)

    assert run_id == "20261127T230000Z-abababab"
    assert is_run_id(run_id)
    assert not is_run_id(run_id + "/..")
    assert not is_run_id(run_id + "\n")


def test_the_run_at_work_is_known_in_its_threads_too() -> None:
    seen: list[str | None] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(current_run_id()))
        thread.start()
        thread.join()

    assert current_run_id() is None
    with running("a"):
        assert current_run_id() == "a"
        look()
        with running("b"):
            assert current_run_id() == "b"
            look()
    look()

    assert current_run_id() is None
    assert seen == ["a", None, None], "where two runs are at work, a thread cannot tell"
