import json
import shutil
from pathlib import Path

import pytest

from corpus.workspace import Workspace
from indexer import build, gate
from indexer.publications import Check, GateOutcome
from indexer.publish import current_version
from indexer.report import Estimate
from server.cli import main
from tests.indexer.small_bundles import manifest_of

REFUSED = GateOutcome(
    version="v1",
    served=None,
    verdict="refused",
    checks=(
        Check(
            question="two stages against one",
            difference=Estimate(value=-0.2, low=-0.3, high=-0.1),
            n_queries=48,
            passed=False,
        ),
    ),
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        main(arguments)
        code = 0
    except SystemExit as exc:
        code = int(exc.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def fresh(store: Workspace, tmp_path: Path) -> Workspace:
    """A store with prepared data and bundle v1, which was never published."""
    copy = Workspace(tmp_path / "fresh")
    shutil.copytree(store.data, copy.data)
    shutil.copytree(store.bundles / "v1", copy.bundles / "v1")
    copy.config_path.write_text("[gate]\nqueries = 7\n")
    return copy


def test_publish_asks_the_gate_with_the_stores_settings_and_prints_what_it_found(fresh, capsys, monkeypatch):
    asked = []

    def judge(workspace, version, config):
        asked.append((version, config.queries, config.max_slice_loss))
        return REFUSED.model_copy(update={"verdict": "passed"})

    monkeypatch.setattr(gate, "judge", judge)
    code, out, _ = run(capsys, "publish", str(fresh.root), "--json", "--set", "gate.max_slice_loss=0.5")
    document = json.loads(out)
    assert (code, document["version"], document["gate"]["verdict"]) == (0, "v1", "passed")
    assert document["gate"]["checks"][0]["n_queries"] == 48
    assert asked == [(None, 7, 0.5)]
    assert current_version(fresh.bundles) == "v1"


def test_a_refusal_is_printed_and_fails_and_nothing_is_served(fresh, capsys, monkeypatch):
    monkeypatch.setattr(gate, "judge", lambda *arguments: REFUSED)
    code, out, err = run(capsys, "publish", str(fresh.root), "--json")
    assert code == 1
    assert json.loads(out) == {"version": None, "gate": REFUSED.model_dump(mode="json")}
    assert "expected bundle v1 to pass the release gate" in err
    code, out, _ = run(capsys, "publish", str(fresh.root))
    assert code == 1
    assert "FAILED  two stages against one: -.200 [-.300, -.100] on 48 searches" in out
    assert current_version(fresh.bundles) is None


def test_a_forced_publication_asks_nobody_and_keeps_its_reason(fresh, capsys, monkeypatch):
    monkeypatch.setattr(gate, "judge", lambda *arguments: pytest.fail("asked"))
    code, out, _ = run(capsys, "publish", str(fresh.root), "--force", "--reason", "the old one is broken", "--json")
    assert code == 0
    assert json.loads(out) == {"version": "v1", "gate": None, "reason": "the old one is broken"}
    line = json.loads((fresh.bundles / "publications.jsonl").read_text())
    assert (line["version"], line["gate"], line["reason"]) == ("v1", None, "the old one is broken")


@pytest.mark.parametrize("options", [["--force"], ["--reason", "why"], ["--force", "--reason", " "]])
def test_force_and_reason_come_together(fresh, capsys, options):
    code, _, err = run(capsys, "publish", str(fresh.root), *options)
    assert code == 2
    assert "--force and --reason" in err
    assert current_version(fresh.bundles) is None


def test_the_gate_really_measures_a_real_store(fresh, capsys, monkeypatch):
    monkeypatch.setenv("TANDEM_GATE__LEAST_QUERIES", "1")
    code, out, _ = run(capsys, "publish", str(fresh.root), "--json")
    document = json.loads(out)
    assert code == (1 if document["gate"]["verdict"] == "refused" else 0)
    assert document["gate"]["checks"][0]["n_queries"] == 7
    assert current_version(fresh.bundles) == document["version"]


def test_build_prints_how_its_index_was_tuned_and_draws_it(fresh, capsys, monkeypatch, tmp_path):
    report = build.BuildReport(manifest=manifest_of(fresh.bundles / "v1", "v1"), n_embedded=60, n_reused=0, seconds=1.0)
    built = []
    monkeypatch.setattr(build, "build_bundle", lambda *_, **__: built.append(1) or report)
    code, out, _ = run(capsys, "build", str(fresh.root), "--plot", str(tmp_path / "curve.png"))
    assert (code, built) == (0, [1])
    assert "ef_search = 128          0.9975     0.500  kept" in out.splitlines()
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = run(capsys, "build", str(fresh.root), "--plot", str(tmp_path / "missing" / "curve.png"))
    assert (code, built) == (2, [1])
    assert "expected a folder" in err
