"""The whole of ``prepare``, against a plain reference that follows the rules one by one."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus import shoppers
from corpus.errors import BadSource, ConfigError, InputError
from corpus.live_log import Held
from corpus.prepare import prepare
from corpus.prepared import Prepared
from corpus.settings import DataConfig

START = datetime(2024, 1, 1, tzinfo=UTC)
VALID_FROM, TEST_FROM = START + timedelta(minutes=200), START + timedelta(minutes=300)
WEIGHTS = {"click": 0.2, "add_to_cart": 0.5, "purchase": 1.0}
GRADES = {"click": 1.0, "add_to_cart": 2.0, "purchase": 3.0}
ORDER = ["search", "impression", "click", "add_to_cart", "purchase"]


def row(minute, kind, user="ann", **more):
    return {"timestamp": (START + timedelta(minutes=minute)).isoformat(), "type": kind, "user_id": user, **more}


def test_a_small_log_becomes_the_examples_one_expects(store):
    store.items("a", "b", "c")
    store.rows(
        "events.jsonl",
        [
            row(0, "search", query="Red Shoe"),
            row(1, "impression", item_id="c"),
            row(1, "click", item_id="a"),
            row(2, "click", item_id="b"),
            row(3, "purchase", item_id="b"),
            row(250, "search", query="blue"),
            row(251, "click", item_id="c"),
            row(400, "search", query="green"),
            row(401, "add_to_cart", item_id="a"),
            row(500, "search", query="nothing came of it"),
        ],
    )
    report = store.prepare(valid_from=VALID_FROM, test_from=TEST_FROM)
    train, valid, test = store.examples
    assert (train["query"], train["split"], train["user_id"]) == ("red shoe", "train", "ann")
    assert train["labels"] == [
        {"row": 0, "weight": pytest.approx(0.2), "grade": 1.0},
        {"row": 1, "weight": 1.0, "grade": 3.0},
    ]
    assert train["history"] == []
    assert [(e["type"], e["item_id"], e["query"]) for e in valid["history"]] == [
        ("purchase", "b", None),
        ("click", "b", None),
        ("click", "a", None),
        ("search", None, "red shoe"),
    ]
    assert (test["split"], len(test["history"])) == ("test", 6)
    assert (report.n_searches, report.n_clicks, report.n_impressions) == (4, 3, 1)
    assert (report.n_train, report.n_valid, report.n_test) == (1, 1, 1)


def test_the_reader_of_prepared_data_reads_it(store):
    store.items("a")
    store.rows("events.jsonl", [row(0, "click", item_id="a", query="q"), row(5, "click", item_id="a", query="r")])
    report = store.prepare(valid_share=0.0, test_share=0.0)
    first, second = store.prepared.examples("train")
    assert first.labels[0].row == 0 and first.history == ()
    assert (second.history[0].type, second.history[0].item_id, second.history[0].query) == ("click", "a", "q")
    assert store.prepared.fingerprint == report.fingerprint
    assert store.prepared.items.ids == ["a"]


def test_the_same_input_gives_the_same_fingerprint_and_other_input_another(store):
    store.items("a", "b")
    events = [row(n, "click", user=f"u{n % 7}", item_id="ab"[n % 2], query=f"q{n % 5}") for n in range(60)]
    store.rows("events.jsonl", events)
    first = store.prepare()
    assert store.prepare() == first
    store.rows("events.jsonl", events[:-1])
    assert store.prepare().fingerprint != first.fingerprint
    store.rows("events.jsonl", [*events, row(1, "impression", item_id="a", position=1)])
    assert store.prepare().fingerprint != first.fingerprint
    manifest = store.prepared.manifest
    assert sorted(manifest["sha256"]) == ["examples.parquet", "exposure.parquet", "items.parquet"]


def test_histories_are_cut_to_the_newest_events(store):
    store.items("a")
    store.rows("events.jsonl", [row(n, "click", item_id="a", query=f"q{n}") for n in range(9)])
    store.prepare(history_max_events=3, valid_share=0.0, test_share=0.0)
    assert [event["query"] for event in store.examples[8]["history"]] == ["q7", "q6", "q5"]
    store.prepare(history_max_events=0, valid_share=0.0, test_share=0.0)
    assert all(example["history"] == [] for example in store.examples)


def test_a_shopper_is_the_session_where_nobody_signs_in(store):
    store.items("a")
    anonymous = {"user": None, "session_id": "s1", "item_id": "a"}
    store.rows("events.jsonl", [row(0, "click", query="p", **anonymous), row(1, "click", query="q", **anonymous)])
    store.prepare(valid_share=0.0, test_share=0.0)
    assert [(e["user_id"], len(e["history"])) for e in store.examples] == [("s1", 0), ("s1", 1)]


def test_a_label_seen_after_validation_began_is_not_trained_on(store):
    store.items("a", "b")
    store.rows(
        "events.jsonl",
        [row(190, "search", query="q"), row(195, "click", item_id="a"), row(205, "purchase", item_id="b")],
    )
    report = store.prepare(valid_from=VALID_FROM, test_from=TEST_FROM)
    assert [label["row"] for label in store.examples[0]["labels"]] == [0]
    assert report.n_labels_past_split == 1


def test_types_without_weight_give_no_labels(store):
    store.items("a", "b")
    store.rows("events.jsonl", [row(0, "click", item_id="a", query="q"), row(0, "purchase", item_id="b", query="q")])
    store.prepare(event_weights={"purchase": 1.0}, valid_share=0.0, test_share=0.0)
    assert [label["row"] for label in store.examples[0]["labels"]] == [1]


def test_judgments_join_behaviour(store):
    store.items("a")
    store.rows("events.jsonl", [row(0, "click", item_id="a", query="q")])
    store.rows("judgments.jsonl", [{"query": "q", "item_id": "a", "grade": 3, "split": "test"}])
    report = store.prepare(judgments="source/judgments.jsonl", valid_from=VALID_FROM, test_from=TEST_FROM)
    assert (report.n_train, report.n_test, report.n_judged_queries) == (1, 1, 1)
    assert len({example["query_id"] for example in store.examples}) == 2


def test_old_data_survives_a_failed_run_and_the_rejects_are_kept(store):
    store.items("a")
    store.rows("events.jsonl", [row(0, "click", item_id="a", query="q")])
    report = store.prepare(valid_share=0.0, test_share=0.0)
    store.rows("events.jsonl", [row(0, "click", item_id="elsewhere", query="q")])
    kept = store.root / "data.rejects.jsonl"
    with pytest.raises(InputError, match=r"1 x item not in the catalogue .*listed in .*data\.rejects\.jsonl"):
        store.prepare()
    assert json.loads(kept.read_text())["line"] == 1
    assert Prepared(store.root / "data").fingerprint == report.fingerprint
    assert not [path for path in store.root.iterdir() if path.name.startswith(".")]
    store.rows("events.jsonl", [row(0, "click", item_id="a", query="q")])
    store.prepare(valid_share=0.0, test_share=0.0)
    assert not kept.exists()


def test_a_log_in_which_nothing_follows_a_search_is_explained(store):
    store.items("a")
    store.rows("events.jsonl", [row(0, "click", item_id="a"), row(1, "search", query="q")])
    with pytest.raises(InputError, match=r"none from 2 events.*attribution_window_minutes"):
        store.prepare()


def test_missing_files_are_named(store):
    with pytest.raises(BadSource, match=r"source/items\.jsonl"):
        store.prepare()
    store.items("a")
    with pytest.raises(BadSource, match=r"source/events\.jsonl"):
        store.prepare()
    with pytest.raises(ConfigError, match=r"data\.events or data\.judgments"):
        prepare(DataConfig(events=""), store.root, store.root / "data")


def test_only_the_prepared_files_are_left(store):
    store.items("a")
    store.rows("events.jsonl", [row(0, "click", item_id="a", query="q")])
    store.prepare(valid_share=0.0, test_share=0.0)
    names = sorted(path.name for path in (store.root / "data").iterdir())
    assert names == ["examples.parquet", "exposure.parquet", "items.parquet", "manifest.json", "rejects.jsonl"]


# --- a random log against the reference -----------------------------------------------------------------------------

EVENT = st.fixed_dictionaries(
    {
        "minute": st.integers(0, 420),
        "kind": st.sampled_from(["search", "search", "click", "add_to_cart", "purchase", "impression"]),
        "user": st.sampled_from(["ann", "bob"]),
        "session": st.sampled_from(["s1", "s2", None]),
        "query": st.sampled_from(["red", "blue", None, None]),
        "item": st.sampled_from("abc"),
    }
)


def as_event(drawn):
    is_search = drawn["kind"] == "search"
    query = drawn["query"] or ("red" if is_search else None)
    session = drawn["session"] and drawn["user"] + drawn["session"]
    return {
        "minute": drawn["minute"], "kind": drawn["kind"], "user": drawn["user"], "session": session, "query": query,
        "item": None if is_search else drawn["item"],
    }  # fmt: skip


def reference(events):
    """Return {(user, query, minute): {item: (weight, observed minutes)}} by the rules of corpus.attribution."""
    labels = {}
    for event in events:
        if event["kind"] not in WEIGHTS:
            continue
        candidates = [
            e for e in events
            if e["kind"] == "search" and e["user"] == event["user"]
            and (event["session"] is None or e["session"] == event["session"])
            and (event["query"] is None or e["query"] == event["query"])
            and 0 <= event["minute"] - e["minute"] <= 30
        ]  # fmt: skip
        if candidates:
            latest = max(e["minute"] for e in candidates)
            found = [(e["query"], latest) for e in candidates if e["minute"] == latest]
        elif event["query"]:
            found = [(event["query"], event["minute"])]
        else:
            continue
        # two searches at one instant: either answer is right
        labels.setdefault(tuple(sorted({(event["user"], *search) for search in found})), []).append(event)
    return labels


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EVENT.map(as_event), min_size=1, max_size=40))
def test_random_logs_follow_the_rules_and_leak_nothing(tmp_path_factory, monkeypatch, events):
    from tests.corpus.conftest import Store

    monkeypatch.setattr(shoppers, "BUCKET_EVENTS", 5)
    store = Store(tmp_path_factory.mktemp("store"))
    store.items(*"abc")
    store.rows(
        "events.jsonl",
        [
            row(e["minute"], e["kind"], e["user"], session_id=e["session"], query=e["query"], item_id=e["item"])
            for e in events
        ],
    )
    expected = reference(events)
    try:
        store.prepare(valid_from=VALID_FROM, test_from=TEST_FROM)
    except InputError:
        assert not any(_known(search, e) for searches, found in expected.items() for search in searches for e in found)
        return
    examples = {_key(example): example for example in store.examples}
    assert len(examples) == len(store.examples)
    _check_labels(examples, expected)
    for (user, _, minute), example in examples.items():
        want = "test" if minute >= 300 else "valid" if minute >= 200 else "train"
        assert example["split"] == want
        _check_history(example, [e for e in events if e["user"] == user and e["minute"] < minute])


def _known(search, event):
    starts = [start for start in (200, 300) if search[2] < start]
    return not starts or event["minute"] < starts[0]


def _key(example):
    minute = (example["timestamp"] - START).total_seconds() / 60
    return example["user_id"], example["query"], int(minute)


def _check_labels(examples, expected):
    unambiguous = {searches[0]: found for searches, found in expected.items() if len(searches) == 1}
    doubtful = {search for searches in expected if len(searches) > 1 for search in searches}
    for search, found in unambiguous.items():
        if search in doubtful:
            continue
        known = [e for e in found if _known(search, e)]
        labels = {"abc"[label["row"]]: label for label in examples[search]["labels"]} if search in examples else {}
        best = {
            item: max((e["kind"] for e in known if e["item"] == item), key=ORDER.index)
            for item in {e["item"] for e in known}
        }
        assert {item: label["grade"] for item, label in labels.items()} == {i: GRADES[kind] for i, kind in best.items()}
        assert {i: round(label["weight"], 5) for i, label in labels.items()} == {i: WEIGHTS[k] for i, k in best.items()}
    assert set(examples) <= set(unambiguous) | doubtful


def _check_history(example, before):
    told = {(e["minute"], e["session"], e["kind"], e["item"], e["query"]) for e in before if e["kind"] != "impression"}
    assert all(event["timestamp"] < example["timestamp"] for event in example["history"])
    instants = [event["timestamp"] for event in example["history"]]
    assert instants == sorted(instants, reverse=True)
    got = sorted(
        ((e["timestamp"] - START).total_seconds() / 60, e["type"], e["item_id"] or "", e["query"] or "")
        for e in example["history"]
    )
    assert got == sorted((m, kind, item or "", query or "") for m, _, kind, item, query in told)


def test_what_an_export_supersedes_stays_noted_until_another_says_so(store):
    store.items("a")
    store.rows("events.jsonl", [row(0, "search", query="pan"), row(1, "click", item_id="a")])
    whole = {"valid_share": 0.0, "test_share": 0.0}
    store.prepare(**whole)
    assert store.prepared.held == Held()
    given = {"items": "source/items.jsonl", "events": "source/events.jsonl", **whole}
    held = Held(log="a" * 32, sequence=7, as_of=datetime(2026, 3, 1, tzinfo=UTC))
    prepare(DataConfig.model_validate(given), store.root, store.root / "data", held=held)
    assert store.prepared.held == held
    store.prepare(**whole)
    assert store.prepared.held == held
