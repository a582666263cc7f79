import json

from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.fuzz import TIMEOUT_S, Fuzzed
from benchmarks.fuzz_messages import methods


def test_codes_that_no_request_may_be_told_are_kept_with_their_requests():
    search = next(method for method in methods() if method.name == "Search")
    found = Fuzzed()
    found.note(search, b"\x01", "OK", 0.5)
    found.note(search, b"\x02\xff", "INTERNAL", 0.25)
    found.note(search, b"\x03", "DEADLINE_EXCEEDED", TIMEOUT_S + 6)
    assert (found.n_calls, found.n_broken, found.n_hung, found.slowest_s) == (3, 1, 1, TIMEOUT_S + 6)
    assert found.broken == ["Search INTERNAL 02ff"]


def test_the_command_writes_what_became_of_every_request(built_store, tmp_path):
    options = ["--store", str(built_store.root), "--requests", "60", "--connections", "100", "--results", str(tmp_path)]
    done = CliRunner().invoke(app, ["fuzz", *options])
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "fuzz.json").read_text(encoding="utf-8"))
    assert sum(written["codes"].values()) == written["n_calls"] == 60
    assert len({code.split()[0] for code in written["codes"]}) == len(methods())
    assert (written["broken"], written["n_unexpected_errors_logged"]) == ([], 0)
    assert written["n_lines_that_are_no_json"] == 0  # what strangers send is not written there by gRPC either
    assert written["ready_after_s"] is not None
