import json
from pathlib import Path

from rerank.checkpoints import open_checkpoints


def checkpoint(folder: Path, step: int, *, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    state = json.dumps({"global_step": step})
    (path / "trainer_state.json").write_text(state if whole else state[:-5], encoding="utf-8")
    return path


def test_a_first_run_starts_at_the_beginning(tmp_path: Path):
    assert open_checkpoints(tmp_path / "new", {"data": "a"}, resume=True) is None


def test_an_interrupted_run_goes_on_from_its_newest_whole_checkpoint(tmp_path: Path):
    open_checkpoints(tmp_path, {"data": "a"}, resume=True)
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    torn = checkpoint(tmp_path, 11, whole=False)
    assert open_checkpoints(tmp_path, {"data": "a"}, resume=True) == newest
    assert not torn.exists()


def test_a_run_on_other_data_starts_anew(tmp_path: Path):
    open_checkpoints(tmp_path, {"data": "a"}, resume=True)
    old = checkpoint(tmp_path, 9)
    assert open_checkpoints(tmp_path, {"data": "b"}, resume=True) is None
    assert not old.exists()


def test_a_fresh_run_starts_anew(tmp_path: Path):
    open_checkpoints(tmp_path, {"data": "a"}, resume=True)
    checkpoint(tmp_path, 9)
    assert open_checkpoints(tmp_path, {"data": "a"}, resume=False) is None
