import errno
import logging
import os
import resource
import struct
import threading
import zlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import live_log_writer
from corpus.errors import ArtefactError, UpdatesRefused
from corpus.items import Item
from corpus.live_log import (
    FILE_HEAD_BYTES,
    LOG_FILE,
    RECORD_HEAD_BYTES,
    Change,
    Held,
    LogReader,
    read_log,
    record_of,
)
from corpus.live_log_writer import LiveLogWriter
from tests.indexer.faulty_disk import ERRORS, Crash, FaultyDisk

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MUG = Item(
    item_id="mug-1",
    title="Blue müg",
    category=("kitchen", "mugs"),
    price=9.5,
    in_stock=False,
    attributes={"colour": ("blue", "white")},
    updated_at=NOON,
)


def change(sequence: int, *titles: str, deletions: tuple[str, ...] = ()) -> Change:
    upserts = tuple(Item(item_id=f"i-{number}", title=title) for number, title in enumerate(titles))
    return Change(sequence=sequence, time=NOON, upserts=upserts, deletions=deletions)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "live"


def write(folder: Path, n: int) -> list[int]:
    """Write n changes; return where the file ended after each."""
    writer = LiveLogWriter(folder)
    ends = []
    for sequence in range(1, n + 1):
        writer.append(change(sequence, f"title {sequence}"))
        ends.append((folder / LOG_FILE).stat().st_size)
    writer.close()
    return ends


def numbers(folder: Path) -> list[int]:
    return [found.sequence for found in read_log(folder).changes]


def test_what_was_appended_is_read_back_whole(folder):
    first = Change(sequence=1, time=NOON, upserts=(MUG,), encoder="e1", vectors={"mug-1": b"\x00\xff\x01\x02"})
    second = Change(sequence=2, time=NOON, deletions=("mug-1", "x"))
    writer = LiveLogWriter(folder)
    writer.append(first)
    assert read_log(folder).changes == [first]  # while the writer is open
    writer.append(second)
    writer.close()
    assert read_log(folder).changes == [first, second]
    assert read_log(folder).identity == writer.identity


def test_a_folder_without_a_log_holds_no_changes_and_reading_makes_none(folder):
    assert read_log(folder).changes == ()
    assert LogReader(folder).more() == []
    assert not folder.exists()


def test_numbers_go_on_after_a_restart(folder):
    write(folder, 2)
    writer = LiveLogWriter(folder)
    assert writer.last == 2
    with pytest.raises(ValueError, match="expected change 3, got 5"):
        writer.append(change(5))
    writer.append(change(3))
    writer.close()
    assert numbers(folder) == [1, 2, 3]


def test_numbers_exceed_what_a_bundle_holds_of_the_same_log(folder):
    write(folder, 2)  # an older file, put there by hand
    writer = LiveLogWriter(folder)
    writer.outgrow(Held(log="0" * 32, sequence=9))
    assert writer.last == 2
    writer.outgrow(Held(log=writer.identity, sequence=2))
    assert numbers(folder) == [1, 2]
    before = writer.identity
    held = Held(log=before, sequence=9)
    writer.outgrow(held)
    assert writer.identity != before
    writer.append(change(3))
    writer.close()
    assert numbers(folder) == [1, 2, 3]  # nothing that was acknowledged is dropped
    assert [found.sequence for found in read_log(folder).beyond(held)] == [1, 2, 3]


def test_each_log_has_an_identity_that_stays(folder, tmp_path):
    write(folder, 2)
    identity = read_log(folder).identity
    writer = LiveLogWriter(folder)
    writer.prune(1)
    writer.close()
    assert read_log(folder).identity == writer.identity == identity
    write(tmp_path / "other", 1)
    assert read_log(tmp_path / "other").identity not in ("", identity)


def test_what_a_catalogue_holds_of_this_log_is_told_by_number_and_of_another_by_time(folder):
    writer = LiveLogWriter(folder)
    for sequence in (1, 2, 3):
        writer.append(change(sequence).model_copy(update={"time": NOON + timedelta(hours=sequence)}))
    log = read_log(folder)

    def beyond(held: Held) -> list[int]:
        return [found.sequence for found in log.beyond(held)]

    assert beyond(Held(log=writer.identity, sequence=2)) == [3]
    assert beyond(Held(log="0" * 32, sequence=2)) == [1, 2, 3]
    assert beyond(Held(log="0" * 32, sequence=9, as_of=NOON + timedelta(hours=2))) == [2, 3]
    assert beyond(Held()) == [1, 2, 3]
    assert log.held_up_to(Held(as_of=NOON + timedelta(hours=9))) == 3
    writer.close()


def test_a_log_of_the_first_format_is_read_and_gone_on_with(folder):
    folder.mkdir()
    head = struct.pack("<8sQ", b"tandemL1", 4)
    path = folder / LOG_FILE
    path.write_bytes(head + struct.pack("<I", zlib.crc32(head)) + record_of(change(5, "five")))
    assert numbers(folder) == [5]
    writer = LiveLogWriter(folder)
    writer.append(change(6))
    writer.close()
    assert numbers(folder) == [5, 6]
    assert read_log(folder).identity == writer.identity != ""
    # nobody knows of which log a catalogue speaks that names none
    assert [found.sequence for found in read_log(folder).beyond(Held(sequence=5))] == [5, 6]


def test_a_reader_gets_each_change_once(folder):
    reader = LogReader(folder)
    writer = LiveLogWriter(folder)
    writer.append(change(1, "first"))
    assert [found.sequence for found in reader.more()] == [1]
    assert reader.more() == []
    size = (folder / LOG_FILE).stat().st_size
    writer.append(change(2, "other"))
    writer.prune(1)
    assert (folder / LOG_FILE).stat().st_size == size  # and yet it holds something new
    assert [found.sequence for found in reader.more()] == [2]
    writer.append(change(3))
    with (folder / LOG_FILE).open("ab") as file:
        file.write(record_of(change(4))[:-1])  # being written
    assert [found.sequence for found in reader.more()] == [3]
    assert reader.more() == []
    writer.close()
    (folder / LOG_FILE).unlink()
    assert reader.more() == []
    write(folder, 2)  # a log of another identity begins anew
    assert [found.sequence for found in reader.more()] == [1, 2]


def test_a_reader_of_what_is_new_reads_nothing_else(folder, monkeypatch):
    ends = write(folder, 200)
    reader = LogReader(folder)
    reader.more()
    writer = LiveLogWriter(folder)
    writer.append(change(201))
    n_read: list[int] = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: n_read.append(len(found := real(*arguments))) or found)
    assert [found.sequence for found in reader.more()] == [201]
    assert sum(n_read) < FILE_HEAD_BYTES + (ends[-1] - ends[-2]) + 20
    writer.close()


def test_damage_in_what_is_new_is_refused_and_named_by_its_place_in_the_file(folder):
    ends = write(folder, 1)
    reader = LogReader(folder)
    reader.more()
    write_more = LiveLogWriter(folder)
    write_more.append(change(2))
    write_more.append(change(3))
    write_more.close()
    content = bytearray((folder / LOG_FILE).read_bytes())
    content[ends[0] + 5] ^= 1
    (folder / LOG_FILE).write_bytes(content)
    with pytest.raises(ArtefactError, match=f"damaged one at byte {ends[0]}"):
        reader.more()


def test_nothing_is_acknowledged_into_a_file_that_a_restart_would_not_read(folder, tmp_path):
    writer = LiveLogWriter(folder)
    writer.append(change(1))
    write(tmp_path / "other", 1)
    (folder / LOG_FILE).replace(folder / "moved-away")
    (tmp_path / "other" / LOG_FILE).replace(folder / LOG_FILE)
    with pytest.raises(UpdatesRefused, match="no longer the log that this server wrote"):
        writer.append(change(2))
    with pytest.raises(UpdatesRefused):
        writer.append(change(2))
    writer.close()
    assert numbers(folder) == [1]


def test_a_log_is_not_pruned_from_a_file_that_somebody_put_there(folder):
    writer = LiveLogWriter(folder)
    writer.append(change(1))
    older = (folder / LOG_FILE).read_bytes()
    writer.append(change(2))
    writer.append(change(3))
    (folder / LOG_FILE).unlink()
    (folder / LOG_FILE).write_bytes(older)
    with pytest.raises(ArtefactError, match="restart the server"):
        writer.prune(2)
    assert writer.last == 3
    writer.close()


def test_nobody_reads_what_is_not_flushed_yet(folder, monkeypatch):
    writer = LiveLogWriter(folder)
    writer.append(change(1))
    reader, found = LogReader(folder), list[int]()
    reading = threading.Thread(target=lambda: found.extend(each.sequence for each in reader.more()))
    real = os.fsync

    def fail(_file: int) -> None:
        reading.start()
        reading.join(0.2)
        assert reading.is_alive()  # it waits
        monkeypatch.setattr(live_log_writer.os, "fsync", real)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(live_log_writer.os, "fsync", fail)
    with pytest.raises(ArtefactError):
        writer.append(change(2))
    reading.join()
    assert found == [1]
    writer.close()


def test_a_second_writer_is_refused_until_the_first_closes(folder):
    writer = LiveLogWriter(folder)
    with pytest.raises(UpdatesRefused, match="another server takes this store's updates"):
        LiveLogWriter(folder)
    writer.close()
    LiveLogWriter(folder).close()


@settings(max_examples=30)
@given(cut=st.integers(min_value=0), zeros=st.booleans())
def test_a_torn_tail_is_left_out_and_cut_off(tmp_path_factory, cut, zeros):
    folder = tmp_path_factory.mktemp("torn")
    ends = write(folder, 3)
    path = folder / LOG_FILE
    size = FILE_HEAD_BYTES + cut % (ends[-1] - FILE_HEAD_BYTES)
    whole = [sequence for sequence, end in enumerate(ends, start=1) if end <= size]
    content = path.read_bytes()[:size]
    # a crash may leave the length of what was written without its content
    path.write_bytes(content + bytes(50) if zeros else content)
    assert numbers(folder) == whole
    writer = LiveLogWriter(folder)
    assert path.stat().st_size == ([FILE_HEAD_BYTES, *ends][len(whole)])
    writer.append(change(len(whole) + 1, "again"))
    writer.close()
    assert numbers(folder) == [*whole, len(whole) + 1]


def test_cutting_a_tail_off_is_logged(folder, caplog):
    write(folder, 1)
    with (folder / LOG_FILE).open("ab") as file:
        file.write(b"TREC\x00\x00")
    with caplog.at_level(logging.WARNING):
        LiveLogWriter(folder).close()
    assert "cutting 6 bytes of an unacknowledged update" in caplog.text


def test_any_flipped_byte_before_the_last_record_is_refused(folder):
    ends = write(folder, 3)
    path = folder / LOG_FILE
    content = path.read_bytes()
    for at in range(0, ends[1], 3):  # every field is longer than that
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        with pytest.raises(ArtefactError, match="found a damaged one at byte"):
            read_log(folder)
    with pytest.raises(ArtefactError, match="restore the file from a backup"):
        LiveLogWriter(folder)
    path.write_bytes(content)
    LiveLogWriter(folder).close()  # the refusal let go of the lock
    assert numbers(folder) == [1, 2, 3]


def test_a_flipped_byte_in_the_last_record_is_taken_for_a_torn_one(folder):
    ends = write(folder, 2)
    path = folder / LOG_FILE
    content = bytearray(path.read_bytes())
    content[ends[0] + RECORD_HEAD_BYTES + 3] ^= 1
    path.write_bytes(content)
    assert numbers(folder) == [1]


def test_a_missing_record_between_two_is_refused(folder):
    ends = write(folder, 3)
    path = folder / LOG_FILE
    content = path.read_bytes()
    path.write_bytes(content[: ends[0]] + content[ends[1] :])
    with pytest.raises(ArtefactError, match="damaged"):
        read_log(folder)


def test_a_full_disk_takes_nothing_and_the_log_goes_on(folder):
    writer = LiveLogWriter(folder)
    writer.append(change(1, "fits"))
    path = folder / LOG_FILE
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
    try:
        with pytest.raises(ArtefactError, match="check the disk's space"):
            writer.append(change(2, "x" * 500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == size  # also what did fit was taken back
    writer.append(change(2, "y" * 500))
    writer.close()
    assert [found.upserts[0].title[:4] for found in read_log(folder).changes] == ["fits", "yyyy"]


def test_after_a_failed_flush_nothing_is_taken_until_a_restart(folder, monkeypatch):
    writer = LiveLogWriter(folder)
    writer.append(change(1))
    real = os.fsync

    def fail(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(live_log_writer.os, "fsync", fail)
    with pytest.raises(ArtefactError, match="Input/output error"):
        writer.append(change(2))
    monkeypatch.setattr(live_log_writer.os, "fsync", real)
    with pytest.raises(UpdatesRefused, match="restart the server"):
        writer.append(change(2))
    writer.prune(1)  # nothing is touched any more
    writer.close()
    assert numbers(folder) == [1]
    after = LiveLogWriter(folder)
    after.append(change(2))
    after.close()
    assert numbers(folder) == [1, 2]


def test_pruning_drops_the_oldest_and_numbers_go_on(folder, caplog):
    write(folder, 3)
    writer = LiveLogWriter(folder)
    writer.prune(2)
    writer.append(change(4))
    writer.prune(1)  # already gone
    log = read_log(folder)
    assert [found.sequence for found in log.beyond(Held(log=log.identity, sequence=2))] == [3, 4]
    assert not caplog.records
    assert [found.sequence for found in log.beyond(Held(log=log.identity))] == [3, 4]
    assert "live updates 1 to 2 are in the log no longer" in caplog.text
    writer.prune(99)
    assert writer.last == 4
    writer.close()
    after = LiveLogWriter(folder)
    assert after.last == 4
    after.append(change(5))
    after.close()
    assert numbers(folder) == [5]


@pytest.mark.parametrize("error", [None, *ERRORS], ids=["power cut", "ENOSPC", "EIO"])
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("lose_renames", [False, True])
def test_whatever_the_disk_does_no_acknowledged_change_is_lost(tmp_path, error, persistent, lose_renames):
    for at in count():
        folder = tmp_path / str(at) / "live"
        folder.parent.mkdir()
        acknowledged: dict[int, str] = {}
        pruned = 0
        disk = FaultyDisk(fail_at=at, error=error, persistent=persistent)
        with suppress(Crash, ArtefactError), disk.inserted():
            writer = LiveLogWriter(folder)
            try:
                for step in range(6):
                    sequence = writer.last + 1
                    with suppress(ArtefactError, UpdatesRefused):
                        writer.append(change(sequence, f"in step {step}"))
                        acknowledged[sequence] = f"in step {step}"
                    if step in (2, 4):
                        pruned = max(pruned, writer.last - 1)
                        with suppress(ArtefactError):
                            writer.prune(pruned)
            finally:
                writer.close()
        disk.cut_power(lose_renames=lose_renames)
        log = read_log(folder)
        assert log.base <= pruned
        found = {each.sequence: each.upserts[0].title for each in log.changes}
        kept = {sequence: title for sequence, title in acknowledged.items() if sequence > log.base}
        assert found | kept == found
        after = LiveLogWriter(folder)
        after.append(change(log.last + 1, "after"))
        after.close()
        assert numbers(folder)[-1] == log.last + 1
        if len(disk.calls) <= at:  # nothing failed any more
            break
    assert at > 25


def test_the_last_change_before_a_time_is_found(folder):
    assert read_log(folder).last_before(NOON) == 0
    writer = LiveLogWriter(folder)
    for sequence in (1, 2, 3):
        writer.append(change(sequence).model_copy(update={"time": NOON + timedelta(hours=sequence)}))
    assert read_log(folder).last_before(NOON + timedelta(hours=2)) == 1
    assert read_log(folder).last_before(NOON + timedelta(hours=9)) == 3
    writer.prune(2)
    assert read_log(folder).last_before(NOON) == 2  # what was pruned came before
    writer.close()
