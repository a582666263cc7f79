import numpy as np
import pytest

from benchmarks.peers import sentence_transformers_stack as diy
from benchmarks.peers.sentence_transformers_stack import open_stack, passages
from corpus.items import Item, ItemTable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("peers") / "stack"


@pytest.fixture(scope="module")
def stack(tiny_prepared, tiny_encoder_folder, folder):
    return open_stack(tiny_prepared, folder, base_model=str(tiny_encoder_folder), max_steps=2)


def test_the_first_stage_is_exact_search_and_the_second_reorders_its_first_thirty(stack, tiny_prepared, folder):
    examples = tiny_prepared.examples("test", limit=6)
    runs = dict(stack.runs(examples))
    assert list(runs) == ["do-it-yourself dense", "do-it-yourself two stages"]
    vectors = np.load(folder / "embeddings.npy")
    for example in examples:
        query = stack._encoder.encode([example.query], normalize_embeddings=True)[0]
        first, second = (run[example.query_id] for run in runs.values())
        assert first == np.argsort(-(vectors @ query), kind="stable").tolist()
        texts = passages(tiny_prepared.items)
        scores = stack._cross_encoder.predict([(example.query, texts[row]) for row in first[:30]])
        assert second[:30] == [first[place] for place in np.argsort(-scores, kind="stable")]
        assert second[30:] == first[30:]
        assert second != first


def test_both_stages_learned(stack, tiny_encoder_folder):
    from sentence_transformers import SentenceTransformer

    untuned = SentenceTransformer(str(tiny_encoder_folder)).encode(["red running shoe"])
    assert np.abs(untuned - stack._encoder.encode(["red running shoe"])).max() > 1e-6
    assert stack._cross_encoder.num_labels == 1


def test_judged_items_are_ordered_by_each_stage_alone(stack, tiny_prepared):
    examples = [example for example in tiny_prepared.examples("test") if len(example.labels) > 1]
    judged, whole = dict(stack.judged_runs(examples)), dict(stack.runs(examples))
    assert list(judged) == list(whole)
    for example in examples:
        own = {label.row for label in example.labels}
        assert set(judged["do-it-yourself two stages"][example.query_id]) == own
        ranked = [row for row in whole["do-it-yourself dense"][example.query_id] if row in own]
        assert judged["do-it-yourself dense"][example.query_id] == ranked


def test_a_second_call_only_opens_what_the_first_trained(
    stack, tiny_prepared, tiny_encoder_folder, folder, monkeypatch
):
    def refuse(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(diy, "train", refuse)
    again = open_stack(tiny_prepared, folder, base_model=str(tiny_encoder_folder), max_steps=2)
    examples = tiny_prepared.examples("test", limit=3)
    assert dict(again.runs(examples)) == dict(stack.runs(examples))


def test_other_settings_train_anew(stack, tiny_prepared, tiny_encoder_folder, folder, tmp_path, monkeypatch):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "stack")
    trained = []

    def train(prepared, folder, settings):
        assert not folder.exists()  # nothing of the old one stays
        trained.append(settings.max_steps)
        shutil.copytree(stack_folder, folder)

    stack_folder = folder
    monkeypatch.setattr(diy, "train", train)
    open_stack(tiny_prepared, copy, base_model=str(tiny_encoder_folder), max_steps=3)
    assert trained == [3]


def test_an_item_is_written_with_whatever_it_has():
    items = [
        Item(item_id="a", title="Red shoe", brand="Acme", category=("Shoes", "Running")),
        Item(item_id="b", title="Pan"),
    ]
    assert passages(ItemTable.from_items(items)) == ["Red shoe Acme Shoes Running", "Pan"]
