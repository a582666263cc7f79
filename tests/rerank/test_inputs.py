from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from corpus.errors import ArtefactError, ConfigError
from corpus.events import EventType, HistoryEvent
from rerank.config import RerankerConfig
from rerank.inputs import OFFSETS_FILE, TOKENS_FILE, PairTokenizer, PassageTokens, assemble
from retrieval.texts import Texts

CONFIG = RerankerConfig(max_query_tokens=4, max_history_tokens=9, max_item_tokens=5)
NAMES = {"a": "red shoe", "b": "blue kiri hose", "c": "steel pan"}


def click(item: str) -> HistoryEvent:
    return HistoryEvent(timestamp=datetime(2026, 1, 1, tzinfo=UTC), type=EventType.CLICK, item_id=item)


def words(tokenizer: PairTokenizer, ids: np.ndarray) -> str:
    return " ".join(tokenizer.tokenizer.id_to_token(number) for number in ids.tolist())


def test_without_history_the_prefix_holds_the_query_alone(pair_tokenizer: PairTokenizer):
    assert words(pair_tokenizer, pair_tokenizer.prefix("red shoe", (), NAMES.get, CONFIG)) == "[CLS] red shoe [SEP]"


def test_a_history_is_a_segment_of_its_own_in_the_prefix(pair_tokenizer: PairTokenizer):
    prefix = pair_tokenizer.prefix("rake", [click("a"), click("c")], NAMES.get, CONFIG)
    sections = words(pair_tokenizer, prefix).split(" [SEP]")
    assert sections[0] == "[CLS] rake"
    assert sections[1].startswith(" clicked red shoe")
    assert sections[1].endswith("clicked steel pan")
    assert sections[2] == ""


def test_a_history_of_unknown_items_is_no_history(pair_tokenizer: PairTokenizer):
    with_history = pair_tokenizer.prefix("rake", [click("gone")], NAMES.get, CONFIG)
    np.testing.assert_array_equal(with_history, pair_tokenizer.prefix("rake", (), NAMES.get, CONFIG))


def test_a_history_is_cut_by_whole_events_the_least_important_first(pair_tokenizer: PairTokenizer):
    # "pan" makes the oldest event the most important; the longest one in between does not fit
    events = [click("a"), click("b"), click("c")]
    config = CONFIG.model_copy(update={"max_history_tokens": 8})
    prefix = words(pair_tokenizer, pair_tokenizer.prefix("pan", events, NAMES.get, config))
    assert "red shoe" in prefix
    assert "steel pan" in prefix
    assert "hose" not in prefix
    assert prefix.index("red shoe") < prefix.index("steel pan")  # newest first all the same


def test_only_an_event_that_is_too_long_alone_is_cut_inside(pair_tokenizer: PairTokenizer):
    config = CONFIG.model_copy(update={"max_history_tokens": 3})
    prefix = words(pair_tokenizer, pair_tokenizer.prefix("rake", [click("b")], NAMES.get, config))
    assert prefix == "[CLS] rake [SEP] clicked blue kiri [SEP]"


@pytest.mark.parametrize("budget", range(12))
def test_no_budget_is_exceeded(pair_tokenizer: PairTokenizer, budget: int):
    config = CONFIG.model_copy(update={"max_history_tokens": budget})
    events = [click("a"), click("b"), click("c")]
    prefix = pair_tokenizer.prefix("red red red red red red", events, NAMES.get, config)
    assert len(prefix) <= 1 + 4 + 1 + (budget + 1 if budget else 0)


def test_the_tokenizers_own_truncation_and_padding_are_off(tiny_bert_folder: Path):
    raw = Tokenizer.from_file(str(tiny_bert_folder / "tokenizer.json"))
    raw.enable_truncation(2)
    raw.enable_padding(length=5)
    assert len(PairTokenizer(raw).token_ids(["red blue black"])[0]) == 3


def test_a_tokenizer_without_separator_is_refused():
    with pytest.raises(ConfigError, match="base_model"):
        PairTokenizer(Tokenizer(models.WordLevel({"a": 0, "[CLS]": 1}, unk_token="a")))


def test_a_tokenizer_reads_back_as_written(pair_tokenizer: PairTokenizer, tmp_path: Path):
    pair_tokenizer.save(tmp_path)
    assert PairTokenizer.load(tmp_path).fingerprint == pair_tokenizer.fingerprint


def test_a_broken_tokenizer_file_is_an_artefact_error(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtefactError, match="tokenizer"):
        PairTokenizer.load(tmp_path)


def test_passages_are_cut_and_read_back_memory_mapped(pair_tokenizer: PairTokenizer, tmp_path: Path):
    built = PassageTokens.build(pair_tokenizer, ["red shoe", "", "blue kiri hose pan mug rake"], 4)
    built.save(tmp_path)
    loaded = PassageTokens.load(tmp_path)
    assert isinstance(loaded.tokens.base, np.memmap)
    assert len(loaded) == 3
    assert [words(pair_tokenizer, loaded.of(row)) for row in range(3)][:2] == ["red shoe", ""]
    np.testing.assert_array_equal(loaded.lengths(np.array([2, 0])), [4, 2])
    for row in range(3):
        np.testing.assert_array_equal(loaded.of(row), built.of(row))


def test_passages_written_in_chunks_are_those_held_in_memory(
    pair_tokenizer: PairTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    texts = [f"red shoe {'mug ' * (number % 7)}{number}" for number in range(1000)]
    want = PassageTokens.build(pair_tokenizer, texts, 6)
    monkeypatch.setattr("rerank.inputs._CHUNK", 300)
    written = PassageTokens.write(tmp_path / "new", pair_tokenizer, Texts.of(texts), 6)
    assert isinstance(written.tokens.base, np.memmap)
    np.testing.assert_array_equal(written.tokens, want.tokens)
    np.testing.assert_array_equal(written.offsets, want.offsets)
    assert len(PassageTokens.write(tmp_path / "none", pair_tokenizer, Texts.of([]), 6)) == 0


def test_an_empty_catalogue_has_no_passages(pair_tokenizer: PairTokenizer, tmp_path: Path):
    PassageTokens.build(pair_tokenizer, [], 4).save(tmp_path)
    assert len(PassageTokens.load(tmp_path)) == 0


@pytest.mark.parametrize("name", [TOKENS_FILE, OFFSETS_FILE])
def test_truncated_passages_are_refused(pair_tokenizer: PairTokenizer, tmp_path: Path, name: str):
    PassageTokens.build(pair_tokenizer, ["red shoe", "hose"], 4).save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-4])
    with pytest.raises(ArtefactError, match="rebuild"):
        PassageTokens.load(tmp_path)


def test_passages_whose_arrays_do_not_fit_are_refused(tmp_path: Path):
    PassageTokens(np.arange(5, dtype=np.int32), np.array([0, 2, 4], dtype=np.int64)).save(tmp_path)
    with pytest.raises(ArtefactError, match="fit"):
        PassageTokens.load(tmp_path)


token_lists = st.lists(st.integers(10, 99), max_size=6).map(lambda ids: np.array(ids, dtype=np.int32))


@given(st.lists(st.tuples(token_lists, token_lists), max_size=5))
def test_assembled_inputs_hold_every_token_once_in_place(pairs: list[tuple[np.ndarray, np.ndarray]]):
    batch = assemble([a for a, _ in pairs], [b for _, b in pairs], separator_id=2, padding_id=1)
    assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.token_type_ids.dtype == np.int64
    for line, (prefix, passage) in enumerate(pairs):
        want = [*prefix.tolist(), *passage.tolist(), 2]
        rest = batch.input_ids.shape[1] - len(want)
        assert batch.input_ids[line].tolist() == want + [1] * rest
        assert batch.attention_mask[line].tolist() == [1] * len(want) + [0] * rest
        assert batch.token_type_ids[line].tolist() == [0] * len(prefix) + [1] * (len(passage) + 1) + [0] * rest
    if pairs:
        assert batch.attention_mask.sum(axis=1).max() == batch.input_ids.shape[1]  # no wider than needed
