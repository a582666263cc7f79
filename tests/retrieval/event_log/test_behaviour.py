from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ArtefactError
from corpus.items import Item, ItemTable
from corpus.prepared import Pairs, Prepared
from retrieval.config import BehaviourConfig
from retrieval.engines.encoder import TextEncoder, open_torch_encoder
from retrieval.event_log.behaviour import Behaviour
from tests.conftest import exposure

NEVER = "NaT"
N_ITEMS = 8
ITEMS = ItemTable.from_items([Item(item_id=f"i{row}", title=f"item {row}") for row in range(N_ITEMS)])
# (query, item, weight, shopper, day); the newest is of day 15
CHOICES = (
    ("pan", 5, 1.0, 0, "2026-01-15"),
    ("pan", 5, 1.0, 1, "2026-01-08"),
    ("pan", 3, 2.0, 1, "2026-01-01"),
    ("hose", 3, 0.5, -1, "2026-01-15"),
    ("rake", 6, 0.25, 0, "2026-01-15"),
)
# (item, impressions, clicks, expected clicks)
EXPOSURE = exposure((1, 400, 50, 20), (2, 400, 50, 90), (3, 5, 0, 0.5), (5, 0, 2, 0))


def pairs(*choices: tuple[str, int, float, int, str]) -> Pairs:
    queries = list(dict.fromkeys(choice[0] for choice in choices))
    return Pairs(
        queries=queries,
        query=np.array([queries.index(choice[0]) for choice in choices], dtype=np.int64),
        row=np.array([choice[1] for choice in choices], dtype=np.int64),
        weight=np.array([choice[2] for choice in choices], dtype=np.float32),
        shopper=np.array([choice[3] for choice in choices], dtype=np.int64),
        timestamp=np.array([choice[4] for choice in choices], dtype="datetime64[us]"),
    )


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder: Path) -> TextEncoder:
    return open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=16)


def build(encoder: TextEncoder, *choices: tuple[str, int, float, int, str], **settings: object) -> Behaviour:
    return Behaviour.build(pairs(*choices), EXPOSURE, encoder, BehaviourConfig(**settings), items=ITEMS)


@pytest.fixture
def behaviour(encoder: TextEncoder) -> Behaviour:
    return build(encoder, *CHOICES, trend_days=7.0)


def test_popularity_is_the_weight_of_all_choices(behaviour: Behaviour):
    np.testing.assert_allclose(behaviour.popularity, [0, 0, 0, 2.5, 0, 2, 0.25, 0])
    assert behaviour.popularity.dtype == behaviour.recent.dtype == np.float32


def test_click_rates_are_clicks_over_expected_clicks_drawn_to_1(behaviour: Behaviour):
    # ten clicks and ten expected ones are added to each; item 5 was clicked, but its display lies in another split
    want = [np.nan, 60 / 30, 60 / 100, 10 / 10.5, np.nan, np.nan, np.nan, np.nan]
    np.testing.assert_allclose(behaviour.click_rate, want, rtol=1e-6)
    assert behaviour.click_rate.dtype == np.float32


def test_recent_choices_are_halved_with_every_trend_of_their_age(behaviour: Behaviour):
    # item 5: 1 + 1/2 (one week old); item 3: 2/4 (two weeks) + .5; item 6: of today
    np.testing.assert_allclose(behaviour.recent, [0, 0, 0, 1.0, 0, 1.5, 0.25, 0], rtol=1e-6)


def test_a_half_life_takes_from_popularity_and_the_log_alike(encoder: TextEncoder):
    behaviour = build(encoder, *CHOICES, half_life_days=14.0)
    old = 2**-0.5  # one week is half a half-life
    np.testing.assert_allclose(behaviour.popularity, [0, 0, 0, 2 / 2 + 0.5, 0, 1 + old, 0.25, 0], rtol=1e-6)
    chosen = behaviour.queries.chosen("pan")
    assert chosen.rows.tolist() == [5, 3]
    np.testing.assert_allclose(chosen.weights, [1 + old, 1], rtol=1e-6)
    assert chosen.total == pytest.approx(2 + old)


def test_the_log_is_asked_by_text_and_by_likeness(behaviour: Behaviour, encoder: TextEncoder):
    chosen = behaviour.queries.chosen("pan")
    assert (chosen.rows.tolist(), chosen.weights.tolist(), chosen.total) == ([3, 5], [2, 2], 4)
    rows, scores = behaviour.queries.search(encoder.encode(["rake"])[0], 1)
    assert rows.tolist() == [6]
    # an encoder of random weights finds all queries alike, so that the others take most of its share
    assert 0 < scores[0] <= 0.25 / (0.25 + 1) + 1e-6


def test_items_of_the_same_shoppers_are_related(behaviour: Behaviour):
    # shopper 0 chose 5 and 6, shopper 1 chose 5 and 3
    assert behaviour.related.of(5)[0].tolist() == [3, 6]
    np.testing.assert_allclose(behaviour.related.of(5)[1], [1 / (2**0.5 + 1)] * 2, rtol=1e-6)
    assert behaviour.related.of(3)[0].tolist() == [5]  # the hose was chosen by nobody known


def test_only_the_most_frequent_queries_are_kept_in_the_log(encoder: TextEncoder):
    behaviour = build(encoder, *CHOICES, max_queries=2)
    assert len(behaviour.queries) == 2
    assert behaviour.queries.chosen("pan").total == 4
    assert behaviour.queries.chosen("hose").total == 0.5
    assert behaviour.queries.chosen("rake").total == 0
    assert behaviour.popularity[6] == 0.25  # the choice itself still counts


@pytest.mark.parametrize("half_life_days", [None, 7.0])
def test_judged_queries_have_no_time_and_decay_never(encoder: TextEncoder, half_life_days: float | None):
    judged = tuple((query, row, weight, -1, NEVER) for query, row, weight, *_ in CHOICES)
    behaviour = build(encoder, *judged, half_life_days=half_life_days)
    np.testing.assert_allclose(behaviour.popularity, [0, 0, 0, 2.5, 0, 2, 0.25, 0])
    np.testing.assert_array_equal(behaviour.recent, behaviour.popularity)
    assert not len(behaviour.related.rows)


def test_what_has_no_time_is_as_good_as_new(encoder: TextEncoder):
    mixed = (("pan", 1, 1.0, -1, NEVER), ("pan", 2, 1.0, -1, "2026-01-01"), ("pan", 4, 1.0, -1, "2026-01-08"))
    behaviour = build(encoder, *mixed, trend_days=7.0)
    np.testing.assert_allclose(behaviour.recent[[1, 2, 4]], [1, 0.5, 1])


def test_a_wrong_clock_does_not_make_all_others_old(encoder: TextEncoder):
    days = [("pan", 1, 1.0, -1, "2026-01-08")] * 1500
    behaviour = build(encoder, *days, ("pan", 2, 1.0, -1, "2037-01-01"), trend_days=7.0)
    np.testing.assert_allclose(behaviour.recent[[1, 2]], [1500, 1])


def test_before_the_first_choice_the_tables_are_empty(encoder: TextEncoder):
    behaviour = build(encoder, half_life_days=3.0)
    assert len(behaviour.queries) == 0
    assert behaviour.popularity.tolist() == behaviour.recent.tolist() == [0.0] * N_ITEMS
    assert behaviour.popularity.dtype == behaviour.recent.dtype == np.float32
    assert len(behaviour.related) == N_ITEMS


def test_tables_survive_the_disk(behaviour: Behaviour, encoder: TextEncoder, tmp_path: Path):
    behaviour.save(tmp_path / "behaviour")
    loaded = Behaviour.load(tmp_path / "behaviour", BehaviourConfig(), n_items=N_ITEMS)
    np.testing.assert_array_equal(loaded.popularity, behaviour.popularity)
    np.testing.assert_array_equal(loaded.recent, behaviour.recent)
    np.testing.assert_array_equal(loaded.click_rate, behaviour.click_rate)
    np.testing.assert_array_equal(loaded.traits.usual, behaviour.traits.usual)
    np.testing.assert_array_equal(loaded.words.totals, behaviour.words.totals)
    for part in ("offsets", "rows", "values"):
        np.testing.assert_array_equal(getattr(loaded.related, part), getattr(behaviour.related, part))
    vector = encoder.encode(["pan"])[0]
    for got, want in zip(loaded.queries.search(vector, 5), behaviour.queries.search(vector, 5), strict=True):
        np.testing.assert_array_equal(got, want)


def test_empty_tables_survive_the_disk(encoder: TextEncoder, tmp_path: Path):
    build(encoder).save(tmp_path / "behaviour")
    loaded = Behaviour.load(tmp_path / "behaviour", BehaviourConfig(), n_items=N_ITEMS)
    assert len(loaded.queries) == 0
    assert loaded.popularity.tolist() == [0.0] * N_ITEMS


@pytest.mark.parametrize("n_items", [N_ITEMS - 1, N_ITEMS + 1])
def test_tables_of_another_catalogue_are_refused(behaviour: Behaviour, tmp_path: Path, n_items: int):
    behaviour.save(tmp_path)
    with pytest.raises(ArtefactError, match=f"{n_items} items"):
        Behaviour.load(tmp_path, BehaviourConfig(), n_items=n_items)


@pytest.mark.parametrize(
    "name",
    [
        "popularity.npy",
        "recent.npy",
        "click_rate.npy",
        "related_rows.npy",
        "query_totals.npy",
        "trait_usual.npy",
        "word_hashes.npy",
    ],
)
@pytest.mark.parametrize("array", [np.zeros(3, dtype=np.float32), np.zeros(N_ITEMS), None])
def test_a_file_that_is_missing_or_of_another_shape_is_refused(
    behaviour: Behaviour, tmp_path: Path, name: str, array: np.ndarray | None
):
    behaviour.save(tmp_path)
    (tmp_path / name).unlink()
    if array is not None:
        np.save(tmp_path / name, array.astype(np.float64) if name.startswith("query") else array)
    with pytest.raises(ArtefactError, match="build the bundle again"):
        Behaviour.load(tmp_path, BehaviourConfig(), n_items=N_ITEMS)


def test_prepared_data_are_counted_as_they_are(tiny_prepared: Prepared, encoder: TextEncoder):
    known = tiny_prepared.pairs("train")
    behaviour = Behaviour.build(
        known, tiny_prepared.exposure("train"), encoder, BehaviourConfig(), items=tiny_prepared.items
    )
    examples = tiny_prepared.examples("train")
    popularity = np.zeros(60)
    for example in examples:
        for label in example.labels:
            popularity[label.row] += label.weight
    np.testing.assert_allclose(behaviour.popularity, popularity, rtol=1e-5)
    assert len(behaviour.queries) == len({example.query for example in examples})
    first = examples[0].query
    total = sum(label.weight for example in examples if example.query == first for label in example.labels)
    assert behaviour.queries.chosen(first).total == pytest.approx(total)


def test_queries_are_embedded_once_where_there_is_a_cache(tiny_prepared, encoder, tmp_path):
    class Counting:
        def __init__(self) -> None:
            self.n = 0
            self.dim, self.fingerprint = encoder.dim, "a"

        def encode(self, texts):
            self.n += len(texts)
            return encoder.encode(texts)

    counting = Counting()
    known, exposure = tiny_prepared.pairs("train"), tiny_prepared.exposure("train")
    tables = [
        Behaviour.build(known, exposure, counting, BehaviourConfig(), items=tiny_prepared.items, cache=tmp_path)
        for _ in range(2)
    ]
    assert counting.n == len(tables[0].queries) > 0
    query = known.queries[0]
    found = [table.queries.search(encoder.encode([query])[0], 5) for table in tables]
    np.testing.assert_array_equal(found[0][0], found[1][0])
