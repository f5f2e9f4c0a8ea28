from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from pipecrypt.parquet.report import FileReport, KeyBytes
from pipecrypt.runs.files import decrypt, encrypt
from pipecrypt.runs.report.events import NO_STAGES, Event, FileDone, StageClock, StageSeconds, bytes_by_key
from pipecrypt.runs.spec.policy import Policy
from tests.runs.conftest import World


def _report(read: float = 0.0, write: float = 0.0, by_key: tuple[KeyBytes, ...] = ()) -> FileReport:
    return FileReport(1, 1, 1, 1, 1, 1, bytes_by_key=by_key, read_seconds=read, write_seconds=write)


def _seconds(stages: StageSeconds) -> float:
    return (
        stages.open_seconds + stages.read_seconds + stages.work_seconds + stages.write_seconds + stages.publish_seconds
    )


def test_stages_add_up_to_the_time_of_the_file() -> None:
    times = iter([100.0, 101.0, 110.0, 112.0])
    clock = StageClock(times.__next__)
    clock.opened()
    clock.worked([_report(2.0, 1.0), _report(0.5, 0.5)], read_seconds=1.0)

    stages = clock.published()

    assert stages == StageSeconds(
        open_seconds=1.0, read_seconds=3.5, work_seconds=4.0, write_seconds=1.5, publish_seconds=2.0
    )
    assert _seconds(stages) == 12.0
    assert stages + NO_STAGES == stages
    assert _seconds(stages + stages) == 24.0


def test_bytes_of_several_outputs_are_added_by_key() -> None:
    first = _report(by_key=(KeyBytes("k", 1), KeyBytes(None, 2)))
    second = _report(by_key=(KeyBytes("k", 10),))

    assert bytes_by_key([first, second]) == (KeyBytes("k", 11), KeyBytes(None, 2))


def test_a_run_tells_stages_and_bytes_by_key(world: World) -> None:
    events: list[Event] = []
    other = world.reference("other")
    policy = Policy({"email": world.key}, footer_key=other)

    encrypt(world.raw, f"{world.out}/", policy, credentials=world.credentials, on_event=events.append)

    done = [event for event in events if isinstance(event, FileDone)]
    assert len(done) == 3
    for event in done:
        (part,) = event.parts
        assert 0 < _seconds(event.stages) <= part.seconds * 1.5
        assert min(event.stages.open_seconds, event.stages.work_seconds, event.stages.publish_seconds) > 0
        metadata = pq.read_metadata(world.raw / part.path)
        sizes = {
            column: sum(
                metadata.row_group(index).column(column).total_compressed_size
                for index in range(metadata.num_row_groups)
            )
            for column in range(2)
        }
        assert event.bytes_by_key == (KeyBytes(world.key, sizes[1]), KeyBytes(None, sizes[0]))


def test_decrypting_and_reading_rows_tell_them_too(world: World) -> None:
    events: list[Event] = []
    (world.root / "rows").mkdir()
    csv.write_csv(pa.table({"a": list(range(1000))}), world.root / "rows" / "a.csv")
    encrypt(
        world.root / "rows",
        f"{world.out}/",
        Policy(default=world.key),
        credentials=world.credentials,
        on_event=events.append,
    )
    decrypt(world.out, f"{world.root}/back/", [world.key], credentials=world.credentials, on_event=events.append)

    ingested, decrypted = (event for event in events if isinstance(event, FileDone))
    assert [each.key_reference for each in ingested.bytes_by_key] == [world.key]
    assert ingested.stages.read_seconds > 0
    assert decrypted.bytes_by_key == ()
    assert decrypted.stages.work_seconds > 0


def test_chunks_and_one_key_for_all_columns_count_under_their_key(world: World) -> None:
    events: list[Event] = []
    source = world.root / "raw" / "a.parquet"
    for number, policy in enumerate(
        (
            Policy(default=world.key, mode="chunks"),
            Policy(default=world.key, uniform=True, footer="encrypted", data_keys="file"),
        )
    ):
        encrypt(source, world.root / str(number), policy, credentials=world.credentials, on_event=events.append)

    for event in events:
        if isinstance(event, FileDone):
            ((reference, page_bytes),) = ((each.key_reference, each.page_bytes) for each in event.bytes_by_key)
            assert reference == world.key
            assert page_bytes > source.stat().st_size // 2
