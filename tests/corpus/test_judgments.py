import pytest

from corpus.errors import InputError


@pytest.fixture
def judge(store):
    store.items("a", "b", "c")

    def run(rows, **settings):
        store.rows("judgments.jsonl", rows)
        settings = {"events": "", "judgments": "source/judgments.jsonl", "max_reject_share": 0.5, **settings}
        return store.prepare(**settings)

    return run


def test_grades_become_labels_and_weights_from_the_threshold_on(store, judge):
    grades = {"a": 3, "b": 2, "c": 1}
    report = judge([{"query": "Q", "item_id": i, "grade": g, "split": "train"} for i, g in grades.items()])
    (example,) = store.examples
    assert example["labels"] == [
        {"row": 0, "weight": 1.0, "grade": 3.0},
        {"row": 1, "weight": pytest.approx(2 / 3), "grade": 2.0},
        {"row": 2, "weight": 0.0, "grade": 1.0},
    ]
    assert (example["query"], example["user_id"], example["timestamp"], example["history"]) == ("q", None, None, [])
    assert (report.n_judged_queries, report.n_train, report.n_test) == (1, 1, 0)


def test_a_pair_judged_twice_gets_the_mean(store, judge):
    report = judge([{"query": q, "item_id": "a", "grade": g, "split": "train"} for q, g in [("Q", 3), ("q", 2)]])
    assert store.examples[0]["labels"] == [{"row": 0, "weight": pytest.approx(2.5 / 3), "grade": 2.5}]
    assert report.n_duplicates == 1
    assert [reject["line"] for reject in store.rejects] == [2]


def test_a_query_of_several_splits_stays_in_the_latest(store, judge):
    rows = [
        {"query": "Mop", "item_id": "a", "grade": 3, "split": "train"},
        {"query": "mop", "item_id": "b", "grade": 3, "split": "test"},
        {"query": "mop", "item_id": "c", "grade": 1, "split": "dev"},
        {"query": "pan", "item_id": "c", "grade": 3, "split": "train"},
    ]
    judge(rows)
    got = {
        example["query"]: (example["split"], [label["row"] for label in example["labels"]])
        for example in store.examples
    }
    assert got == {"mop": ("test", [1]), "pan": ("train", [2])}
    assert [(r["line"], r["reason"]) for r in store.rejects] == [
        (1, "query is also in a later split"),
        (3, "query is also in a later split"),
    ]


def test_without_a_split_column_queries_are_drawn_whole(store, judge):
    rows = [{"query": f"q{n}", "item_id": i, "grade": 3} for n in range(200) for i in "ab"]
    report = judge(rows, valid_share=0.2, test_share=0.3)
    assert report.n_train + report.n_valid + report.n_test == 200
    assert 40 < report.n_test < 80 and 20 < report.n_valid < 60
    assert all(len(example["labels"]) == 2 for example in store.examples)


def test_bad_judgments_are_refused_with_their_reason(store, judge):
    good = {"query": "q", "item_id": "a", "grade": 3, "split": "train"}
    changes = {
        "query without a visible character": {"query": " "},
        "query longer than 512 characters": {"query": "x" * 513},
        "item_id missing": {"item_id": None},
        "item not in the catalogue": {"item_id": "zzz"},
        "grade is no number from 0 to 3": {"grade": 4},
        "split is not train, valid or test": {"split": "later"},
    }
    judge([good] * 7 + [{**good, **change} for change in changes.values()])
    reasons = [reject["reason"] for reject in store.rejects if reject["reason"] != "duplicate"]
    assert reasons == list(changes)


def test_too_many_bad_judgments_stop_the_run(judge):
    with pytest.raises(InputError, match="unusable rows in judgments, got 1 of 1"):
        judge([{"query": "q", "item_id": "zzz", "grade": 3}])
