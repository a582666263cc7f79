import hashlib

import numpy as np

from retrieval.texts import Texts, keys_of

WORDS = ["mug", "pan", "", "ünïcode 日本語", "mug", "\udcff"]


def test_texts_come_by_row_and_in_chunks():
    texts = Texts.of(WORDS)
    assert len(texts) == 6
    assert texts.take(np.array([3, 0])) == [WORDS[3], "mug"]
    assert list(texts.chunks(4)) == [WORDS[:4], WORDS[4:]]


def test_digests_are_the_texts_sha256_whatever_the_chunks(monkeypatch):
    want = [hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest() for word in WORDS]
    monkeypatch.setattr("retrieval.texts.CHUNK", 4)
    texts = Texts.of(WORDS)
    assert [row.tobytes() for row in texts.digests] == want
    assert texts.digests is texts.digests
    assert Texts.of([]).digests.shape == (0, 32)


def test_keys_tell_texts_apart():
    keys = keys_of(Texts.of(WORDS).digests)
    assert (keys[0] == keys[4], len(np.unique(keys))) == (True, 5)


def test_a_sample_changes_only_with_its_texts():
    texts = [f"mug {number}" for number in range(500)]
    drawn = Texts.of(texts).sample(50)
    assert (len(drawn), len(Texts.of(texts[:7]).sample(50))) == (50, 7)
    assert (np.diff(drawn) > 0).all()
    assert 150 < drawn.mean() < 350
    unseen = next(row for row in range(500) if row not in drawn)
    again = Texts.of([*texts[:unseen], *texts[unseen + 1 :]]).sample(50)
    assert {texts[row] for row in drawn} == {[*texts[:unseen], *texts[unseen + 1 :]][row] for row in again}
