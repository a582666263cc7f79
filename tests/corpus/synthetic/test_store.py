"""The store as a whole: reproducible, plausible, and rewarding to whoever reads histories."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corpus.synthetic import Oracle, SyntheticConfig, generate
from corpus.synthetic.oracle import ndcg

FILES = ("items", "events", "oracle", "anonymous_oracle")
TINY = SyntheticConfig(n_items=300, n_shoppers=40, n_searches=300, days=10)
GRADES = {"click": 1.0, "add_to_cart": 2.0, "purchase": 3.0}


def as_bytes(folder: Path, name: str) -> bytes:
    return pl.read_parquet(folder / f"{name}.parquet").write_ipc(None, compression="uncompressed").getvalue()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    generate(TINY, folder)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_the_same_seed_gives_the_same_store_byte_for_byte(tiny, tmp_path_factory, name):
    again = tmp_path_factory.mktemp("again")
    generate(TINY, again)
    assert as_bytes(tiny, name) == as_bytes(again, name)


def test_another_seed_gives_another_store(tiny, tmp_path):
    generate(TINY.model_copy(update={"seed": 14}), tmp_path)
    for name in FILES:
        assert as_bytes(tiny, name) != as_bytes(tmp_path, name)


def test_more_shoppers_leave_the_catalogue_as_it_was(tiny, tmp_path):
    generate(TINY.model_copy(update={"n_shoppers": 50}), tmp_path)
    assert as_bytes(tiny, "items") == as_bytes(tmp_path, "items")


def test_the_report_counts_what_the_files_hold(synthetic_store, events):
    report, count = synthetic_store.report, dict(events["type"].value_counts().iter_rows())
    assert report.n_searches == count["search"] == synthetic_store.config.n_searches
    assert (report.n_impressions, report.n_clicks) == (count["impression"], count["click"])
    assert (report.n_carts, report.n_purchases) == (count["add_to_cart"], count["purchase"])
    assert report.n_shoppers == events["user_id"].n_unique()
    clicked = events.filter(pl.col("type") == "click")["search_id"].n_unique()
    assert report.click_share == pytest.approx(clicked / report.n_searches)
    assert report.n_oracle_searches == synthetic_store.frame("oracle")["search_id"].n_unique()


def test_the_oracle_with_taste_clearly_beats_the_one_without(synthetic_store):
    report = synthetic_store.report
    assert report.oracle_ndcg_at_10 > report.anonymous_oracle_ndcg_at_10 + 0.12


def test_whoever_reads_histories_clearly_beats_whoever_does_not(synthetic_store, events):
    """A crude reader, that only counts brands and styles among earlier clicks, already gains."""
    items = synthetic_store.items
    attributes = [{pair["name"]: pair["values"][0] for pair in pairs} for pairs in items.column("attributes")]
    brand, style = np.array(items.column("brand")), np.array([values["style"] for values in attributes])
    blind = Oracle.read(synthetic_store.folder / "anonymous_oracle.parquet").rankings(items)

    seen, grades, before = defaultdict(list), defaultdict(dict), {}
    log = events.filter(pl.col("type").is_in(["search", "click", "add_to_cart", "purchase"]))
    for kind, user, search, name in log.select("type", "user_id", "search_id", "item_id").iter_rows():
        if kind == "search":
            before[search] = list(seen[user])
        else:
            row = items.row_of(name)
            grades[search][row] = max(GRADES[kind], grades[search].get(row, 0.0))
            seen[user].append(row)

    without, with_history = [], []
    for search, ranking in blind.items():
        if not grades[search] or len(before[search]) < 4:
            continue
        rows, past = np.array(ranking), np.array(before[search])
        liked = (brand[rows, None] == brand[past]).sum(axis=1) + (style[rows, None] == style[past]).sum(axis=1)
        score = liked / np.sqrt(len(past)) - 0.12 * np.arange(len(rows))
        without.append(ndcg(ranking, grades[search]))
        with_history.append(ndcg(rows[np.argsort(-score, kind="stable")].tolist(), grades[search]))
    assert len(without) > 200
    assert np.mean(with_history) > np.mean(without) + 0.05


def test_a_few_queries_make_many_searches(events):
    counts = events.drop_nulls("query")["query"].str.to_lowercase().value_counts(sort=True)["count"].to_numpy()
    assert counts[: len(counts) // 10].sum() > 0.35 * counts.sum()
    assert (counts == 1).sum() > 0.2 * counts.sum()


def test_a_few_items_make_many_purchases(events):
    counts = events.filter(pl.col("type") == "click")["item_id"].value_counts(sort=True)["count"].to_numpy()
    assert counts[:100].sum() > 0.3 * counts.sum()


def test_shares_of_searches_that_lead_to_something_are_a_stores(synthetic_store):
    report = synthetic_store.report
    assert 0.35 < report.click_share < 0.6
    assert 0.12 < report.purchase_share < 0.3
    assert 0.02 < report.n_clicks / report.n_impressions < 0.06
    assert 1.2 < report.n_clicks / report.n_carts < 3
    assert 1.1 < report.n_carts / report.n_purchases < 2


def test_positions_further_down_get_fewer_clicks(events):
    clicks = events.filter(pl.col("type") == "click")["position"].to_numpy()
    by_position = np.bincount(clicks, minlength=21)[1:]
    assert by_position[0] > 1.6 * by_position[4] > 0
    assert by_position[:5].sum() > 1.5 * by_position[5:10].sum()
    assert by_position[5:10].sum() > 1.1 * by_position[15:20].sum() > 0


def test_clicks_show_a_standing_taste_for_brands_and_styles(events, synthetic_store):
    """Two clicks of one shopper agree on the brand far more often than clicks of two shoppers."""
    clicks = events.filter(pl.col("type") == "click").join(
        synthetic_store.frame("items").select("item_id", "brand", pl.col("category").list.first()), on="item_id"
    )
    pairs = clicks.join(clicks, on="category", suffix="_2").filter(pl.col("search_id") < pl.col("search_id_2"))
    agree = pairs.group_by(own=pl.col("user_id") == pl.col("user_id_2")).agg(
        (pl.col("brand") == pl.col("brand_2")).mean()
    )
    share = dict(agree.iter_rows())
    assert share[True] > 1.8 * share[False]
