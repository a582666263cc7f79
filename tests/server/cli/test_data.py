import json

import pytest

from corpus.config import load_config
from server.cli.app import main
from server.config import TandemConfig


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out + captured.err


def test_a_synthetic_store_has_as_many_searches_as_asked_for(tmp_path, capsys):
    code, output = run(capsys, "init", str(tmp_path / "store"), "--from", "synthetic", "--searches", "400", "--json")
    assert code == 0
    assert json.loads(output)["searches"] == 400
    code, output = run(capsys, "prepare", str(tmp_path / "store"), "--json")
    assert code == 0
    assert json.loads(output)["n_searches"] == 400


def test_a_store_is_not_made_twice(tmp_path, capsys):
    assert run(capsys, "init", str(tmp_path))[0] == 0
    code, output = run(capsys, "init", str(tmp_path))
    assert code == 2
    assert "exists; choose another folder" in output


def test_settings_are_written_into_their_sections(tmp_path, capsys):
    chosen = ["retriever.train.max_steps=45", 'reranker.base_model="retriever"', "blend.max_reranked=120"]
    options = [option for setting in chosen for option in ("--set", setting)]
    assert run(capsys, "init", str(tmp_path / "store"), *options)[0] == 0
    config = load_config(TandemConfig, tmp_path / "store" / "tandem.toml", environ={})
    assert config.retriever.train.max_steps == 45
    assert config.reranker.base_model == "retriever"
    assert config.blend.max_reranked == 120


def test_a_setting_takes_the_place_of_another_and_the_last_one_counts(tmp_path, capsys):
    chosen = ['data.items="mine.csv"', 'data.item_columns={item_id = "sku"}', "blend.depth=20", "blend.depth=30"]
    chosen.append('build.canaries=[{query = "red shoe", item_id = "i-1"}]')
    options = [option for setting in chosen for option in ("--set", setting)]
    assert run(capsys, "init", str(tmp_path / "store"), *options)[0] == 0
    config = load_config(TandemConfig, tmp_path / "store" / "tandem.toml", environ={})
    assert (config.data.items, config.data.item_columns) == ("mine.csv", {"item_id": "sku"})
    assert config.blend.depth == 30
    assert config.build.canaries[0].item_id == "i-1"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("retriever.trane=4", "retriever.trane"),
        ("data=4", "section.key=value"),
        ("x", "'x'"),
        ("blend.depth=nan", "blend.depth"),
        ("retriever.train={max_steps = 4}", "retriever.train"),
    ],
)
def test_settings_that_do_not_exist_make_no_store(tmp_path, capsys, setting, told):
    code, output = run(capsys, "init", str(tmp_path / "store"), "--set", "retriever.train.epochs=1", "--set", setting)
    assert code == 2
    assert told in output
    assert not (tmp_path / "store").exists()


def test_what_to_fill_a_store_from_must_be_known(tmp_path, capsys):
    code, output = run(capsys, "init", str(tmp_path / "store"), "--from", "shopify")
    assert code == 2
    assert "expected --from synthetic" in output
    assert not (tmp_path / "store" / "tandem.toml").exists()
