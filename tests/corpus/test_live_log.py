import errno
import logging
import os
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import live_log
from corpus.errors import ArtefactError, UpdatesRefused
from corpus.items import Item
from corpus.live_log import (
    FILE_HEAD_BYTES,
    LOG_FILE,
    RECORD_HEAD_BYTES,
    Change,
    LiveLogWriter,
    last_before,
    read_changes,
)

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


def numbers(folder: Path, **options: int) -> list[int]:
    return [found.sequence for found in read_changes(folder, **options)]


def test_what_was_appended_is_read_back_whole(folder):
    first = Change(sequence=1, time=NOON, upserts=(MUG,), encoder="e1", vectors={"mug-1": b"\x00\xff\x01\x02"})
    second = Change(sequence=2, time=NOON, deletions=("mug-1", "x"))
    writer = LiveLogWriter(folder)
    writer.append(first)
    assert read_changes(folder) == [first]  # while the writer is open
    writer.append(second)
    writer.close()
    assert read_changes(folder) == [first, second]
    assert read_changes(folder, after=1) == [second]


def test_a_folder_without_a_log_holds_no_changes_and_reading_makes_none(folder):
    assert read_changes(folder) == []
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


@pytest.mark.parametrize("kept", [True, False], ids=["older file", "no file"])
def test_numbers_exceed_what_the_served_bundle_holds(folder, kept):
    if kept:
        write(folder, 2)
    writer = LiveLogWriter(folder, at_least=9)
    assert writer.last == 9
    writer.append(change(10))
    writer.close()
    assert numbers(folder, after=9) == [10]


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
            read_changes(folder)
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
        read_changes(folder)


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
    assert [found.upserts[0].title[:4] for found in read_changes(folder)] == ["fits", "yyyy"]


def test_after_a_failed_flush_nothing_is_taken_until_a_restart(folder, monkeypatch):
    writer = LiveLogWriter(folder)
    writer.append(change(1))
    real = os.fsync

    def fail(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(live_log.os, "fsync", fail)
    with pytest.raises(ArtefactError, match="Input/output error"):
        writer.append(change(2))
    monkeypatch.setattr(live_log.os, "fsync", real)
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
    assert numbers(folder, after=2) == [3, 4]
    assert not caplog.records
    assert numbers(folder) == [3, 4]
    assert "changes 1 to 2 are no longer in" in caplog.text
    writer.prune(99)
    assert writer.last == 4
    writer.close()
    after = LiveLogWriter(folder)
    assert after.last == 4
    after.append(change(5))
    after.close()
    assert numbers(folder, after=4) == [5]


def test_the_last_change_before_a_time_is_found(folder):
    assert last_before(folder, NOON) == 0
    writer = LiveLogWriter(folder)
    for sequence in (1, 2, 3):
        writer.append(change(sequence).model_copy(update={"time": NOON + timedelta(hours=sequence)}))
    assert last_before(folder, NOON + timedelta(hours=2)) == 1
    assert last_before(folder, NOON + timedelta(hours=9)) == 3
    writer.prune(2)
    assert last_before(folder, NOON) == 2  # what was pruned came before
    writer.close()
