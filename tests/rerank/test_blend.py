import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from corpus.columns import ItemColumns
from corpus.errors import ArtefactError
from corpus.events import EventType, HistoryEvent
from corpus.items import ItemTable
from corpus.prepared import Prepared
from rerank.blend import Blend, open_blend, predict
from rerank.blend_info import BLEND_FILE, FIRST_FILE, SECOND_FILE, read_blend_info
from rerank.blend_lists import collect_blend_lists
from rerank.features import FEATURES, RERANK_FEATURES, FeatureExtractor, rerank_features
from retrieval.config import BehaviourConfig
from retrieval.event_log.behaviour import Behaviour
from tests.conftest import exposure
from tests.rerank.conftest import TINY_BLEND

NAN = float("nan")
PAST = (HistoryEvent(timestamp=datetime(2026, 1, 1, tzinfo=UTC), type=EventType.PURCHASE, item_id="i-03"),)


@pytest.fixture
def broken(trained_blend: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(trained_blend, tmp_path / "v1")


def change(folder: Path, **fields: object) -> None:
    document = json.loads((folder / BLEND_FILE).read_text(encoding="utf-8")) | fields
    (folder / BLEND_FILE).write_text(json.dumps(document), encoding="utf-8")


def test_the_final_score_is_the_firsts_plus_the_seconds_correction(tiny_blend: Blend, trained_blend, word_retriever):
    found = word_retriever.retrieve("running shoe", 12)
    features = tiny_blend.features("running shoe", PAST, found)
    scores = np.array([0.2, 1.5, -1.0, 0.0, *[NAN] * 8], dtype=np.float32)
    first = tiny_blend.first(features)
    final = tiny_blend.final(first, features, scores)
    trees = [lightgbm.Booster(model_file=trained_blend / name) for name in (FIRST_FILE, SECOND_FILE)]
    np.testing.assert_allclose(first, trees[0].predict(features), rtol=1e-5)
    both = np.concatenate([features, rerank_features(scores)], axis=1)
    np.testing.assert_allclose(final, first + trees[1].predict(both), rtol=1e-5, atol=1e-6)
    assert (first.dtype, final.dtype) == (np.float32, np.float32)
    assert not np.array_equal(first, final)


def test_a_correction_hears_the_cross_encoder(tiny_blend: Blend, word_retriever):
    found = word_retriever.retrieve("running shoe", 12)
    features = tiny_blend.features("running shoe", (), found)
    first = tiny_blend.first(features)
    liked = np.zeros(12, dtype=np.float32)
    liked[3] = 1.0  # as one kiri item among others
    final = tiny_blend.final(first, features, liked)
    assert (final - first).argmax() == 3


def test_no_candidates_have_no_scores(tiny_blend: Blend, word_retriever):
    features = tiny_blend.features("running shoe", PAST, word_retriever.retrieve("running shoe", 0))
    first = tiny_blend.first(features)
    final = tiny_blend.final(first, features, np.empty(0, dtype=np.float32))
    assert (len(first), len(final)) == (0, 0)
    assert first.dtype == final.dtype == np.float32


def test_other_tables_change_the_features_and_nothing_else(tiny_blend: Blend, tiny_items: ItemTable, word_retriever):
    class Nothing:
        dim = 32

        def encode(self, texts):
            return np.empty((0, 32), dtype=np.float32)

    empty = Behaviour.build(no_pairs(), exposure(), Nothing(), BehaviourConfig(), items=tiny_items)
    other = tiny_blend.with_extractor(FeatureExtractor(tiny_items, ItemColumns.of(tiny_items), empty))
    found = word_retriever.retrieve("running shoe", 12)
    before, after = (blend.features("running shoe", PAST, found) for blend in (tiny_blend, other))
    popularity = FEATURES.index("popularity")
    assert before[:, popularity].any()
    assert not after[:, popularity].any()
    assert other.info == tiny_blend.info
    np.testing.assert_array_equal(other.first(before), tiny_blend.first(before))


def no_pairs():
    from corpus.prepared import Pairs

    empty = np.empty(0, dtype=np.int64)
    return Pairs(
        queries=[],
        query=empty,
        row=empty,
        weight=np.empty(0, dtype=np.float32),
        shopper=empty,
        timestamp=np.empty(0, dtype="datetime64[us]"),
    )


def test_serving_computes_what_training_learned_from_to_the_bit(
    tasteful: Prepared, tasteful_behaviour: Behaviour, trained_blend: Path, word_retriever, extractor, tmp_path: Path
):
    lists = collect_blend_lists(tasteful.examples("valid", limit=40), word_retriever, extractor, TINY_BLEND)
    tasteful_behaviour.save(tmp_path / "behaviour")
    loaded = Behaviour.load(tmp_path / "behaviour", BehaviourConfig(), n_items=60)
    items = ItemTable.read(tasteful.folder / "items.parquet")
    served = open_blend(trained_blend, FeatureExtractor(items, ItemColumns.of(items), loaded))
    assert any(entry.history for entry in lists)
    assert any(not entry.history for entry in lists)
    for entry in lists:
        features = served.features(entry.query, entry.history, entry.candidates)
        np.testing.assert_array_equal(features.view(np.uint32), entry.features.view(np.uint32))


def test_a_blend_of_other_features_is_refused(broken: Path, extractor: FeatureExtractor):
    change(broken, features=[*FEATURES, "moon_phase"])
    with pytest.raises(ArtefactError, match=rf"{len(FEATURES) + 3} features, .* got one of {len(FEATURES) + 4}"):
        open_blend(broken, extractor)


def test_features_in_another_order_are_refused(broken: Path):
    change(broken, rerank_features=RERANK_FEATURES[::-1])
    with pytest.raises(ArtefactError, match="tandem train blend"):
        read_blend_info(broken)


def test_another_version_of_the_same_features_is_refused(broken: Path):
    info = read_blend_info(broken)
    change(broken, feature_version=info.feature_version + 1)
    with pytest.raises(ArtefactError, match="tandem train blend"):
        read_blend_info(broken)


def test_another_format_is_refused(broken: Path):
    change(broken, format_version=99)
    with pytest.raises(ArtefactError, match="tandem train blend"):
        read_blend_info(broken)


@pytest.mark.parametrize("content", [None, b"", b"{", b"{}", b"\xff\xfe"])
def test_a_missing_or_broken_description_names_the_remedy(broken: Path, content: bytes | None):
    (broken / BLEND_FILE).unlink()
    if content is not None:
        (broken / BLEND_FILE).write_bytes(content)
    with pytest.raises(ArtefactError, match="tandem train blend"):
        read_blend_info(broken)


@pytest.mark.parametrize("name", [FIRST_FILE, SECOND_FILE])
@pytest.mark.parametrize("content", [None, b"", b"no trees", b"\xff\xfe"])
def test_missing_or_broken_trees_name_the_remedy(
    broken: Path, extractor: FeatureExtractor, name: str, content: bytes | None
):
    (broken / name).unlink()
    if content is not None:
        (broken / name).write_bytes(content)
    with pytest.raises(ArtefactError, match="tandem train blend"):
        open_blend(broken, extractor)


def test_trees_over_other_features_are_refused(broken: Path, extractor: FeatureExtractor):
    shutil.copyfile(broken / SECOND_FILE, broken / FIRST_FILE)
    with pytest.raises(ArtefactError, match=rf"over {len(FEATURES)} features .* got {len(FEATURES) + 3}"):
        open_blend(broken, extractor)


def test_prediction_agrees_with_lightgbms_own(trained_blend: Path):
    booster = lightgbm.Booster(model_file=trained_blend / FIRST_FILE)
    features = np.random.default_rng(0).normal(size=(50, len(FEATURES))).astype(np.float32)
    np.testing.assert_array_equal(predict(booster, features), booster.predict(features).astype(np.float32))
