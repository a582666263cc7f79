import io
import json
import logging
import sys

import pytest

from server.telemetry.logs import configure_logging


@pytest.fixture
def lines(monkeypatch):
    """The log's lines, parsed; the process's own logging is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging("info")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = handlers, level


def test_a_record_is_one_json_object_with_its_fields(lines):
    logging.getLogger("server.serve").info("serving %s on %s", "v3", "127.0.0.1:1", extra={"n_items": 3})
    (line,) = lines()
    assert line["event"] == "serving v3 on 127.0.0.1:1"
    assert (line["level"], line["logger"], line["n_items"]) == ("info", "server.serve", 3)
    assert line["timestamp"].endswith("Z")


def test_records_below_the_level_are_left_out(lines):
    logging.getLogger("server.service").debug("search answered")
    assert lines() == []


def test_an_exception_is_logged_without_what_it_says(lines):
    def find(query: str) -> None:
        raise ValueError(f"no such thing as {query}")

    try:
        find("a secret wish")
    except ValueError as exc:
        logging.getLogger("server.service").error("unexpected error", exc_info=exc)
    (line,) = lines()
    assert line["exception"] == "ValueError"
    assert line["traceback"][-1].endswith(" in find")
    assert "secret" not in json.dumps(line)
