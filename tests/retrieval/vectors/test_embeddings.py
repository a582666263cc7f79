import logging
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ArtefactError, InputError
from retrieval.engines.encoder import open_torch_encoder
from retrieval.texts import Texts
from retrieval.vectors.embeddings import _room, count_missing, embed_items


class Counting:
    """A real encoder that notes what it was asked for, and can be killed after so many calls."""

    def __init__(self, encoder, calls_until_killed=10**9):
        self.encoder = encoder
        self.fingerprint, self.dim = encoder.fingerprint, encoder.dim
        self.texts = []
        self.calls_left = calls_until_killed

    def encode(self, texts):
        if self.calls_left == 0:
            raise KeyboardInterrupt
        self.calls_left -= 1
        self.texts.extend(texts)
        return self.encoder.encode(texts)


@pytest.fixture(scope="module")
def real(tiny_encoder_folder):
    return open_torch_encoder(tiny_encoder_folder, role="item", max_tokens=24, device="cpu")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("retrieval.vectors.embeddings.SHARD_ROWS", 10)


def test_embeddings_come_in_the_order_of_the_texts(real, tiny_items, tmp_path):
    titles = tiny_items.column("title")
    report = embed_items(real, titles, tmp_path)
    np.testing.assert_allclose(report.vectors, real.encode(titles), atol=1e-6)
    assert (report.n_embedded, report.n_reused) == (60, 0)
    assert (report.vectors.dtype, report.vectors.flags.c_contiguous) == (np.float32, True)


def test_duplicates_are_embedded_once(real, tmp_path):
    counting = Counting(real)
    report = embed_items(counting, ["mug", "pan", "mug", "mug"], tmp_path)
    assert counting.texts == ["mug", "pan"]
    assert (report.n_embedded, report.n_reused) == (2, 0)
    np.testing.assert_allclose(report.vectors, real.encode(["mug", "pan", "mug", "mug"]), atol=1e-6)


def test_only_new_texts_are_embedded(real, tmp_path, small_shards):
    first = [f"mug {number}" for number in range(25)]
    before = embed_items(real, first, tmp_path)
    counting = Counting(real)
    after = embed_items(counting, ["new pan", *reversed(first[5:]), "new pan"], tmp_path)
    assert counting.texts == ["new pan"]
    assert (after.n_embedded, after.n_reused) == (1, 20)
    np.testing.assert_array_equal(after.vectors[1:-1], before.vectors[:4:-1])
    np.testing.assert_array_equal(after.vectors[0], after.vectors[-1])


def test_a_killed_run_goes_on_where_it_was(real, tmp_path, small_shards):
    texts = [f"mug {number}" for number in range(35)]
    with pytest.raises(KeyboardInterrupt):
        embed_items(Counting(real, calls_until_killed=2), texts, tmp_path)
    counting = Counting(real)
    report = embed_items(counting, texts, tmp_path)
    assert counting.texts == texts[20:]
    assert (report.n_embedded, report.n_reused) == (15, 20)
    np.testing.assert_allclose(report.vectors, real.encode(texts), atol=1e-6)


def test_vectors_without_digests_do_not_count(real, tmp_path):
    embed_items(real, ["mug"], tmp_path)
    (digests,) = tmp_path.rglob("*.digests")
    digests.unlink()
    assert embed_items(real, ["mug"], tmp_path).n_embedded == 1


@pytest.mark.parametrize("suffix", ["digests", "vectors"])
@pytest.mark.parametrize("damage", ["cut", "rows missing", "gone"])
def test_a_broken_shard_is_reported_and_embedded_again(real, tmp_path, caplog, suffix, damage):
    want = embed_items(real, ["mug", "pan"], tmp_path).vectors
    (path,) = tmp_path.rglob(f"*.{suffix}")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "rows missing":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif suffix == "vectors":
        path.unlink()
    else:
        path.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        again = embed_items(real, ["mug", "pan"], tmp_path)
    assert again.n_embedded == 2
    np.testing.assert_array_equal(again.vectors, want)
    assert "broken shard" in caplog.text
    assert embed_items(real, ["mug", "pan"], tmp_path).n_reused == 2


@pytest.mark.parametrize("suffix", ["digests", "vectors"])
def test_no_byte_that_changed_in_the_cache_reaches_an_embedding(real, tmp_path, suffix):
    want = embed_items(real, ["mug", "pan"], tmp_path / "whole").vectors
    (path,) = (tmp_path / "whole").rglob(f"*.{suffix}")
    name, content = path.relative_to(tmp_path / "whole"), path.read_bytes()
    for place in range(len(content)):
        cache = tmp_path / str(place)
        shutil.copytree(tmp_path / "whole", cache)
        (cache / name).write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        np.testing.assert_array_equal(embed_items(real, ["mug", "pan"], cache).vectors, want)


def test_a_broken_row_costs_no_other(real, tmp_path, caplog):
    embed_items(real, ["mug", "pan", "pot"], tmp_path)
    (path,) = tmp_path.rglob("*.vectors")
    vectors = np.fromfile(path, dtype=np.float32).reshape(3, -1)
    vectors[1] = vectors[2]
    vectors.tofile(path)
    counting = Counting(real)
    with caplog.at_level(logging.WARNING):
        report = embed_items(counting, ["mug", "pan", "pot"], tmp_path)
    assert counting.texts == ["pan"]
    np.testing.assert_allclose(report.vectors, real.encode(["mug", "pan", "pot"]), atol=1e-6)
    assert "ignoring 1 broken embeddings" in caplog.text
    assert embed_items(real, ["mug", "pan", "pot"], tmp_path).n_reused == 3


def test_encoders_do_not_share_embeddings(real, tiny_encoder_folder, tmp_path):
    other = open_torch_encoder(tiny_encoder_folder, role="item", max_tokens=4, device="cpu")
    embed_items(real, ["red acme mug"], tmp_path)
    report = embed_items(other, ["red acme mug"], tmp_path)
    assert report.n_embedded == 1
    np.testing.assert_allclose(report.vectors, other.encode(["red acme mug"]), atol=1e-6)


def test_no_texts_give_no_embeddings(real, tmp_path):
    report = embed_items(real, [], tmp_path / "new")
    assert report.vectors.shape == (0, 32)
    assert (report.n_embedded, report.n_reused) == (0, 0)


def test_no_draft_is_left_behind(real, tmp_path):
    embed_items(real, ["mug"], tmp_path)
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".digests", ".vectors"]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_digests_come_last(real, tmp_path, monkeypatch):
    fsync, replace, done = os.fsync, Path.replace, []

    def noted_fsync(descriptor):
        fsync(descriptor)
        draft = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(("flushed", draft.suffixes[0], os.fstat(descriptor).st_size))

    def noted_replace(draft, target):
        assert not target.exists()
        done.append(("renamed", target.suffix, draft.stat().st_size))
        return replace(draft, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    embed_items(real, ["mug", "pan"], tmp_path)
    sizes = {".vectors": 2 * real.dim * 4, ".digests": 2 * 64}
    assert done == [(what, suffix, size) for suffix, size in sizes.items() for what in ("flushed", "renamed")]


def test_a_cache_that_cannot_be_written_is_an_artefact_error(real, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ArtefactError, match="mend the disk"):
        embed_items(real, ["mug"], tmp_path / "cache")


def test_one_percent_changed_is_one_percent_embedded(real, tmp_path, small_shards):
    texts = [f"mug {number}" for number in range(200)]
    embed_items(real, texts, tmp_path)
    texts[50:52] = ["new pan", "newer pan"]
    counting = Counting(real)
    report = embed_items(counting, texts, tmp_path)
    assert counting.texts == ["new pan", "newer pan"]
    assert (report.n_embedded, report.n_reused) == (2, 198)
    np.testing.assert_allclose(report.vectors, real.encode(texts), atol=1e-6)


def test_embeddings_can_be_written_to_a_mapped_file(real, tmp_path, small_shards):
    texts = [f"mug {number % 25}" for number in range(60)]
    embed_items(real, texts[:15], tmp_path)
    report = embed_items(real, texts, tmp_path, into=tmp_path / "vectors.npy")
    assert isinstance(report.vectors.base, np.memmap)
    assert not report.vectors.flags.writeable
    assert (report.n_embedded, report.n_reused) == (10, 15)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), real.encode(texts), atol=1e-6)


def test_a_full_disk_is_noticed_before_anything_is_embedded(real, tmp_path):
    counting = Counting(real)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ArtefactError, match="free or mend the disk"):
            embed_items(counting, ["mug", "pan"] * 500, tmp_path, into=tmp_path / "vectors.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not counting.texts


def test_room_is_taken_whole_so_that_none_is_missing_later(real, tmp_path):
    _room(tmp_path / "vectors.npy", 5000, real.dim)
    assert (tmp_path / "vectors.npy").stat().st_blocks * 512 >= 5000 * real.dim * 4


def test_embeddings_that_cannot_be_searched_are_not_cached(real, tmp_path):
    class Broken(Counting):
        def encode(self, texts):
            return super().encode(texts) * np.nan

    with pytest.raises(InputError, match="finite"):
        embed_items(Broken(real), ["mug", "pan"], tmp_path)
    report = embed_items(real, ["mug", "pan"], tmp_path)
    assert report.n_embedded == 2
    np.testing.assert_allclose(report.vectors, real.encode(["mug", "pan"]), atol=1e-6)


def test_texts_are_made_a_shard_at_a_time(real, tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr("retrieval.texts.CHUNK", 20)
    asked = []

    def make(rows):
        asked.append(len(rows))
        return [f"mug {row}" for row in rows]

    embed_items(real, Texts(make, 45), tmp_path)
    assert asked == [20, 20, 5, 10, 10, 10, 10, 5]  # to tell them apart, to embed them


def test_shards_may_be_encoded_elsewhere_and_come_back_in_any_order(real, tmp_path, small_shards):
    texts = [f"mug {number}" for number in range(35)]

    def elsewhere(shards):
        return reversed([(rows, real.encode(some)) for rows, some in shards])

    report = embed_items(real, texts, tmp_path, encode_shards=elsewhere)
    np.testing.assert_allclose(report.vectors, real.encode(texts), atol=1e-6)
    asked = []
    assert embed_items(real, texts, tmp_path, encode_shards=asked.append).n_reused == 35
    assert not asked  # nothing to do: nobody is called


def test_missing_texts_are_counted_once_each(real, tmp_path, small_shards):
    embed_items(real, [f"mug {number}" for number in range(12)], tmp_path)
    texts = Texts.of(["mug 3", "pan", "pan", "mug 11", "rake"])
    assert count_missing(texts, tmp_path, real.fingerprint) == 2
    assert count_missing(texts, tmp_path, "another") == 4
    assert count_missing(Texts.of([]), tmp_path, real.fingerprint) == 0
