"""``generate``: the synthetic store, from a seed to files."""

from pathlib import Path

import numpy as np
import polars as pl

from corpus.config import Section
from corpus.events import GRADES, EventType
from corpus.synthetic.catalogue import draw_catalogue
from corpus.synthetic.config import SyntheticConfig
from corpus.synthetic.intents import build_groups
from corpus.synthetic.item_texts import item_frame
from corpus.synthetic.log import event_frame
from corpus.synthetic.oracle import ANONYMOUS_ORACLE_FILE, ORACLE_FILE, ndcg, oracle_frame
from corpus.synthetic.query_texts import query_texts
from corpus.synthetic.shoppers import draw_shoppers, draw_timetable
from corpus.synthetic.simulation import Life, Ranking, Simulation
from corpus.synthetic.vocabulary import load_vocabulary


class SyntheticReport(Section):
    """What ``generate`` made."""

    n_items: int
    n_shoppers: int  # that searched at least once
    n_searches: int
    n_distinct_queries: int
    n_impressions: int
    n_clicks: int
    n_carts: int
    n_purchases: int
    click_share: float  # of the searches that led to a click
    purchase_share: float  # of the searches that led to a purchase
    n_oracle_searches: int  # searches with an oracle, the last of the time span
    oracle_ndcg_at_10: float  # on what shoppers did there; the oracle knows their tastes
    anonymous_oracle_ndcg_at_10: float  # the same for the best order that knows no shopper


def generate(config: SyntheticConfig, out: Path) -> SyntheticReport:
    """Make a store: a catalogue, an event log, and the oracle's rankings for the end of the log.

    Writes ``items.parquet``, ``events.parquet``, ``oracle.parquet`` and ``anonymous_oracle.parquet``. The same
    configuration gives the same tables.

    Args:
        config: Size, seed and choice model.
        out: Folder to write into; made if it is missing.
    """
    # one stream per part: a change in one leaves the others as they were
    streams = [np.random.default_rng(seed) for seed in np.random.SeedSequence(config.seed).spawn(7)]
    vocabulary = load_vocabulary()
    catalogue = draw_catalogue(vocabulary, config.n_items, streams[0])
    items = item_frame(config, vocabulary, catalogue, streams[1])
    shoppers = draw_shoppers(vocabulary, catalogue, config.choice, config.n_shoppers, streams[2])
    timetable = draw_timetable(config, streams[3])
    life = Simulation(config, vocabulary, catalogue, shoppers, timetable, streams[4]).run()
    groups = build_groups(vocabulary, config.choice)
    queries = query_texts(vocabulary, catalogue, groups, life.intents, typo_share=config.typo_share, rng=streams[5])
    events = event_frame(config, catalogue, timetable, life, queries, streams[6])

    out.mkdir(parents=True, exist_ok=True)
    for name, frame in (
        ("items.parquet", items),
        ("events.parquet", events),
        (ORACLE_FILE, oracle_frame(events, life.judged, life.oracle, len(catalogue))),
        (ANONYMOUS_ORACLE_FILE, oracle_frame(events, life.judged, life.anonymous, len(catalogue))),
    ):
        frame.write_parquet(out / name, compression="zstd")
    return _report(config, events, life, queries)


def _report(config: SyntheticConfig, events: pl.DataFrame, life: Life, queries: list[str]) -> SyntheticReport:
    count = dict(events["type"].value_counts().iter_rows())
    return SyntheticReport(
        n_items=config.n_items,
        n_shoppers=events["user_id"].n_unique(),
        n_searches=len(queries),
        n_distinct_queries=len({query.lower() for query in queries}),
        n_impressions=count.get("impression", 0),
        n_clicks=count.get("click", 0),
        n_carts=count.get("add_to_cart", 0),
        n_purchases=count.get("purchase", 0),
        click_share=float(life.behaviour.clicked.any(axis=1).mean()),
        purchase_share=float(life.behaviour.bought.any(axis=1).mean()),
        n_oracle_searches=len(life.judged),
        oracle_ndcg_at_10=_mean_ndcg(life, life.oracle),
        anonymous_oracle_ndcg_at_10=_mean_ndcg(life, life.anonymous),
    )


def _mean_ndcg(life: Life, ranking: Ranking) -> float:
    """Return mean nDCG@10 over the judged searches that led to anything; NaN if there is none."""
    grade = np.zeros(life.shown.shape)
    for kind, happened in (
        (EventType.CLICK, life.behaviour.clicked),
        (EventType.ADD_TO_CART, life.behaviour.carted),
        (EventType.PURCHASE, life.behaviour.bought),
    ):
        grade[happened] = GRADES[kind]
    values = [
        ndcg(ranking.items[place].tolist(), dict(zip(life.shown[search].tolist(), grade[search].tolist(), strict=True)))
        for place, search in enumerate(life.judged.tolist())
        if grade[search].any()
    ]
    return float(np.mean(values)) if values else float("nan")
