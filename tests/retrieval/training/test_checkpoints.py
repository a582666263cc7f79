from pathlib import Path

import pytest

from retrieval.training.checkpoints import newest_checkpoint


def checkpoint(folder: Path, step: int, state: str | None = '{"global_step": 1}') -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    if state is not None:
        (path / "trainer_state.json").write_text(state, encoding="utf-8")
    return path


def test_the_highest_step_wins_by_number_not_by_name(tmp_path: Path):
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    assert newest_checkpoint(tmp_path) == newest


@pytest.mark.parametrize("state", [None, "", '{"global_step": 1', "[]", "{}"])
def test_a_fragment_that_a_kill_left_is_removed(tmp_path: Path, state: str | None):
    whole = checkpoint(tmp_path, 5)
    fragment = checkpoint(tmp_path, 10, state)
    assert newest_checkpoint(tmp_path) == whole
    assert not fragment.exists()


def test_other_folders_are_left_alone(tmp_path: Path):
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
    assert (tmp_path / "checkpoint-best").is_dir()
