import json

import pytest

from corpus.errors import InputError
from corpus.rejects import DUPLICATE, RejectLog


def test_every_refused_row_is_written_and_counted(tmp_path):
    with RejectLog(tmp_path / "r.jsonl") as log:
        log.add("items", "a.csv", [(2, "title missing"), (5, "title missing")])
        log.add("items", "b.csv", [(9, DUPLICATE)], is_fault=False)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert lines[1] == {"table": "items", "file": "a.csv", "line": 5, "reason": "title missing"}
    assert [line["file"] for line in lines] == ["a.csv", "a.csv", "b.csv"]
    assert log.counts == {"items: title missing": 2, "items: duplicate": 1}


def test_the_limit_is_a_share_of_one_table_and_may_be_reached(tmp_path):
    with RejectLog(tmp_path / "r.jsonl") as log:
        log.add("events", "e.csv", [(n, "type missing") for n in range(5)])
        log.add("items", "i.csv", [(2, "title missing")])
        log.check("events", 100, 0.05)
        log.check("judgments", 0, 0.0)
        with pytest.raises(InputError, match=r"events, got 5 of 99: 5 x type missing \(first at e.csv:0\)") as error:
            log.check("events", 99, 0.05)
    assert error.value.field == "events"


def test_duplicates_are_no_faults(tmp_path):
    with RejectLog(tmp_path / "r.jsonl") as log:
        log.add("events", "e.csv", [(n, DUPLICATE) for n in range(50)], is_fault=False)
        log.check("events", 100, 0.0)
