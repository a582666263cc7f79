import os
import subprocess
from importlib.metadata import version

from benchmarks.circumstances import Circumstances, commit


def test_a_results_file_says_on_what_and_how_long_it_was_measured():
    document = Circumstances().document()
    machine, versions = document["machine"], document["versions"]
    assert machine["n_cores"] == len(os.sched_getaffinity(0))
    assert machine["processor"]
    assert len(machine["load_average_before"]) == len(machine["load_average_after"]) == 3
    assert versions["torch"] == version("torch")
    assert versions["faiss-cpu"] == version("faiss-cpu")
    assert 0 <= document["wall_s"] < 60


def test_the_commit_is_marked_when_files_differ_from_it(tmp_path):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "a.txt").write_text("one")
    git("add", "a.txt")
    git("commit", "-qm", "One")
    git("tag", "v1")
    assert commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a.txt").write_text("two")
    assert commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"


def test_outside_a_checkout_the_commit_is_unknown(tmp_path):
    assert commit(tmp_path / "absent") == "unknown"
