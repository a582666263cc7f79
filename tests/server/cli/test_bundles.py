import json
import shutil
from pathlib import Path

import pytest

from corpus.errors import ArtefactError
from corpus.workspace import Workspace
from indexer import build, gate
from indexer.publications import Check, GateOutcome
from indexer.publish import current_version, publish
from indexer.report import Estimate
from server.cli import main
from tests.indexer.small_bundles import manifest_of
from tests.server.conftest import copy_bundle

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


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), (None, None)),
        (("--ray", "ray://head:10001"), (None, "ray://head:10001")),
        (("--reranker", "v4"), ("v4", None)),
    ],
)
def test_build_takes_the_reranker_and_embeds_where_it_is_told(fresh, capsys, monkeypatch, options, wanted):
    asked = []

    def build_bundle(*_, reranker_version, ray):
        asked.append((reranker_version, ray))
        raise ArtefactError("no further")

    monkeypatch.setattr(build, "build_bundle", build_bundle)
    code, _, err = run(capsys, "build", str(fresh.root), *options)
    assert (code, err, asked) == (1, "error: no further\n", [wanted])


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


@pytest.fixture
def versions(fresh: Workspace) -> Workspace:
    """A store with the same bundle as v1, v2 and v3, of which v1 and then v2 were published."""
    for source, target in (("v1", "v2"), ("v2", "v3")):
        copy_bundle(fresh, source, target)
    publish(fresh.bundles, "v1")
    publish(fresh.bundles, "v2")
    return fresh


def test_list_shows_what_an_operator_chooses_by(versions, capsys):
    code, out, _ = run(capsys, "list", str(versions.root))
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["v1", "*", "v3"]
    assert "60 items" in lines[1] and "MB" in lines[1] and "ann_recall@100 1.0000" in lines[1]
    assert lines[1].endswith("parent v1")
    document = json.loads(run(capsys, "list", str(versions.root), "--json")[1])
    folder = versions.bundles / "v2"
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    assert (document["current"], document["bundles"][1]["size_bytes"]) == ("v2", size)


def test_verify_looks_at_the_current_bundle_a_named_one_or_all(versions, capsys):
    (versions.bundles / "v1" / "vectors.npy").write_bytes(b"?")
    (versions.bundles / "v1" / "more").write_bytes(b"?")
    (versions.bundles / "v4").mkdir()
    code, out, _ = run(capsys, "verify", str(versions.root))
    assert (code, out) == (0, "v2: whole\n")
    code, out, _ = run(capsys, "verify", str(versions.root), "v1")
    assert code == 1
    assert out.splitlines()[0] == "v1: 2 bad file(s)"
    assert "vectors.npy (expected" in out and "more (unknown" in out
    code, out, _ = run(capsys, "verify", str(versions.root), "--all", "--json")
    assert code == 1
    document = json.loads(out)
    assert {name: found["ok"] for name, found in document.items()} == {"v1": False, "v2": True, "v3": True, "v4": False}
    assert "found no manifest.json" in document["v4"]["faults"][0]


def test_verify_says_what_it_cannot_find(versions, capsys):
    code, _, err = run(capsys, "verify", str(versions.root), "v9")
    assert code == 1
    assert "found: v1, v2, v3" in err
    code, _, err = run(capsys, "verify", str(versions.root), "v1", "--all")
    assert code == 2


def test_diff_prints_one_document_for_a_script(versions, capsys):
    code, out, _ = run(capsys, "diff", str(versions.root), "v1", "v2", "--queries", "3", "--json")
    document = json.loads(out)
    assert (code, document["before"], document["after"]) == (0, "v1", "v2")
    assert document["items"] == {"added": [], "removed": [], "changed": {}, "n_unchanged": 60}
    assert document["answers"]["overlap"] == 1.0


def test_gc_prints_what_goes_and_removes_it(versions, capsys):
    code, out, _ = run(capsys, "gc", str(versions.root), "--keep", "1", "--dry-run")
    assert (code, out) == (0, "would free 0 bytes; kept: v1, v2, v3\n")
    publish(versions.bundles, "v3")
    code, out, _ = run(capsys, "gc", str(versions.root), "--keep", "1", "--dry-run")
    assert out.startswith("bundle bundles/v1: ")
    assert (versions.bundles / "v1").is_dir()
    code, out, _ = run(capsys, "gc", str(versions.root), "--keep", "1", "--json")
    document = json.loads(out)
    assert (code, document["kept"], document["removed"][0]["path"]) == (0, ["v2", "v3"], "bundles/v1")
    assert not (versions.bundles / "v1").exists()
    assert run(capsys, "gc", str(versions.root), "--keep", "0")[0] == 2


@pytest.fixture
def mirror(versions: Workspace, tmp_path: Path) -> tuple[Workspace, Workspace]:
    """The same store with a bundle store, and another machine's folder for it."""
    host = Workspace(tmp_path / "host")
    host.root.mkdir()
    for workspace in (versions, host):
        workspace.config_path.write_text(f'[bundle_store]\nuri = "{(tmp_path / "mirror").as_uri()}"\n')
    return versions, host


def test_other_machines_follow_what_is_published_and_rolled_back(mirror, capsys):
    builder, host = mirror
    run(capsys, "publish", str(builder.root), "v3", "--force", "--reason", "it is the same")
    assert run(capsys, "pull", str(host.root))[:2] == (0, "v3 is current\n")
    assert run(capsys, "rollback", str(builder.root))[0] == 0
    assert json.loads(run(capsys, "pull", str(host.root), "--json")[1]) == {"version": "v2"}
    assert current_version(host.bundles) == "v2"
    assert run(capsys, "verify", str(host.root), "--all")[0] == 0


def test_a_pull_needs_a_bundle_store(versions, capsys):
    code, _, err = run(capsys, "pull", str(versions.root))
    assert code == 2
    assert "bundle_store.uri" in err


def test_a_server_fetches_what_is_current_and_serves_what_it_has_if_that_cannot_be_had(mirror, capsys, caplog):
    from indexer.config import BundleStoreConfig
    from server.config import TandemConfig
    from server.opening import pull_current

    builder, host = mirror
    run(capsys, "publish", str(builder.root), "v3", "--force", "--reason", "it is the same")
    uri = (host.root.parent / "mirror").as_uri()
    pull_current(TandemConfig(bundle_store=BundleStoreConfig(uri=uri)), host)
    assert current_version(host.bundles) == "v3"
    pull_current(TandemConfig(bundle_store=BundleStoreConfig(uri=f"{uri}-elsewhere")), host)
    assert "serving what is here" in caplog.text
    assert current_version(host.bundles) == "v3"
    pull_current(TandemConfig(), host)
    assert current_version(host.bundles) == "v3"


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
