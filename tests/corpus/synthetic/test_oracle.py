from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corpus.errors import ArtefactError
from corpus.prepare import prepare
from corpus.prepared import Prepared
from corpus.settings import DataConfig
from corpus.synthetic import Oracle, oracle_ndcg
from corpus.synthetic.oracle import ndcg


@pytest.fixture(scope="module")
def oracle(synthetic_store) -> Oracle:
    return Oracle.read(synthetic_store.folder / "oracle.parquet")


@pytest.fixture(scope="module")
def anonymous(synthetic_store) -> Oracle:
    return Oracle.read(synthetic_store.folder / "anonymous_oracle.parquet")


@pytest.fixture(scope="module")
def prepared(synthetic_store, tmp_path_factory) -> Prepared:
    root: Path = tmp_path_factory.mktemp("workspace")
    (root / "source").symlink_to(synthetic_store.folder)
    prepare(DataConfig(), root, root / "data")
    return Prepared(root / "data")


def test_every_search_of_the_last_part_has_a_hundred_items(synthetic_store, oracle, events):
    config = synthetic_store.config
    searches = events.filter(pl.col("type") == "search")
    begin = config.start + (1 - config.oracle_share) * pl.duration(days=config.days)
    late = searches.filter(pl.col("timestamp") >= begin)["search_id"]
    assert set(oracle.query_ids) == set(late)
    frame = synthetic_store.frame("oracle")
    assert frame["rank"].to_list() == list(range(1, 101)) * len(late)
    assert frame.filter(pl.col("rank") == 1)["expected_gain"].min() > 0


def test_every_test_example_finds_the_ranking_of_its_search(prepared, oracle, events):
    examples = prepared.examples("test")
    assert len(examples) > 100
    known = oracle.for_examples(examples)
    assert list(known.query_ids) == [example.query_id for example in examples]
    searches = events.filter(pl.col("type") == "search")
    rankings = oracle.rankings(prepared.items)
    for example in examples[:20]:
        asked = searches.filter(timestamp=example.timestamp, user_id=example.user_id)["search_id"].item()
        assert known.rankings(prepared.items)[example.query_id] == rankings[asked]


def test_an_example_is_known_by_its_search_id_too_and_a_stranger_not_at_all(prepared, oracle):
    example = prepared.examples("test")[0]
    search = next(iter(oracle.query_ids))
    named = replace(example, query_id=search, user_id=None, timestamp=None)
    stranger = replace(example, query_id="judged-1", user_id=None, timestamp=None)
    assert list(oracle.for_examples([named, stranger]).query_ids) == [search]


def test_on_prepared_examples_knowing_the_taste_is_clearly_worth_it(prepared, oracle, anonymous):
    examples = prepared.examples("test")
    with_taste = oracle_ndcg(oracle, examples, prepared.items)
    without = oracle_ndcg(anonymous, examples, prepared.items)
    assert with_taste > without + 0.1
    assert 0.5 < with_taste < 0.95


def test_the_oracle_reaches_all_that_is_possible_and_nothing_reaches_more(synthetic_store, oracle, anonymous):
    items = synthetic_store.items
    shares = oracle.share_of_possible(oracle.rankings(items), items)
    np.testing.assert_allclose(shares, 1.0)
    others = oracle.share_of_possible(anonymous.rankings(items), items)
    assert others.max() <= 1 + 1e-9
    assert 0.4 < others.mean() < 0.85


def test_a_ranking_of_irrelevant_items_reaches_next_to_nothing(synthetic_store, oracle):
    items = synthetic_store.items
    query_id, best = next(iter(oracle.rankings(items).items()))
    rest = [row for row in range(len(items)) if row not in best]
    assert oracle.share_of_possible({query_id: rest[:10]}, items).tolist() == [0.0]


def test_share_of_possible_discounts_by_rank(synthetic_store, oracle):
    items = synthetic_store.items
    query_id, best = next(iter(oracle.rankings(items).items()))
    gains = synthetic_store.frame("oracle").filter(pl.col("search_id") == query_id)["expected_gain"].to_list()
    swapped = {query_id: [best[1], best[0]]}
    # by hand: discounts 1 and 1 / log2(3) = 0.63093
    want = (gains[1] + 0.63093 * gains[0]) / (gains[0] + 0.63093 * gains[1])
    assert oracle.share_of_possible(swapped, items, k=2)[0] == pytest.approx(want, rel=1e-4)


def test_a_search_before_the_oracles_part_is_refused(synthetic_store, oracle):
    with pytest.raises(ArtefactError, match="expected queries that the oracle knows, got q000001"):
        oracle.share_of_possible({"q000001": [0]}, synthetic_store.items)


@pytest.mark.parametrize("content", [None, b"not parquet", "other"])
def test_what_is_no_oracle_is_refused(tmp_path: Path, content):
    path = tmp_path / "oracle.parquet"
    if content == "other":
        pl.DataFrame({"search_id": ["q1"]}).write_parquet(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtefactError, match="expected an oracle of the synthetic store"):
        Oracle.read(path)


def test_ndcg_matches_a_worked_example():
    # grades 3, 0, 1 at ranks 1 to 3: 3 + 1 / 2 = 3.5; ideal 3 + 1 / log2(3) = 3.63093
    assert ndcg([7, 8, 9], {7: 3.0, 9: 1.0}) == pytest.approx(3.5 / 3.63093, rel=1e-5)
    assert ndcg([8, 9], {7: 3.0, 9: 1.0}, k=1) == 0.0


def test_ndcg_of_no_known_example_is_not_a_number(synthetic_store, oracle):
    assert np.isnan(oracle_ndcg(oracle, [], synthetic_store.items))
