import pytest

from corpus.folders import replaced_folder


def test_a_new_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "data"
    with replaced_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["data"]


def test_an_old_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    (target / "old").write_text("x")
    with replaced_folder(target) as folder:
        (folder / "new").write_text("y")
        assert (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_error_leaves_the_old_folder_alone(tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    (target / "old").write_text("x")
    with pytest.raises(KeyboardInterrupt), replaced_folder(target) as folder:
        (folder / "new").write_text("y")
        raise KeyboardInterrupt
    assert [path.name for path in target.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_leftovers_of_a_killed_run_are_cleared(tmp_path):
    (tmp_path / ".data.new").mkdir()
    (tmp_path / ".data.new" / "half").write_text("x")
    (tmp_path / ".data.old").mkdir()  # killed between the renames: the old data is still the best there is
    (tmp_path / ".data.old" / "kept").write_text("x")
    with pytest.raises(ValueError, match="stop"), replaced_folder(tmp_path / "data") as folder:
        assert not list(folder.iterdir())
        raise ValueError("stop")
    assert (tmp_path / "data" / "kept").exists()
