import numpy as np

from corpus.items import ItemTable
from corpus.prepared import Prepared
from rerank.config import RerankerConfig
from rerank.history import item_names
from rerank.inputs import PairTokenizer, PassageTokens
from rerank.quantisation import calibration_batches
from retrieval.passages import passages


def test_batches_are_searches_with_and_without_history_over_all_ranks(
    tasteful: Prepared, tiny_items: ItemTable, tiny_config: RerankerConfig, pair_tokenizer: PairTokenizer
):
    tokens = PassageTokens.build(pair_tokenizer, passages(tiny_items, tiny_config.item_fields), 16)
    example = next(example for example in tasteful.examples("train") if example.history)
    rows = np.arange(40, dtype=np.int64)
    nothing = np.empty(0, dtype=np.int64)
    batches = calibration_batches(
        pair_tokenizer,
        tokens,
        item_names(tiny_items),
        tiny_config,
        [(example, rows), (example, rows), (example, nothing), (example, rows[:3])],
    )
    assert [len(batch) for batch in batches] == [8, 8, 3]
    separators = [(batch.input_ids[0] == pair_tokenizer.separator_id).sum() for batch in batches]
    assert separators == [3, 2, 2]
    last = tokens.of(39)
    line = batches[0].input_ids[-1][batches[0].token_type_ids[-1] == 1]
    np.testing.assert_array_equal(line[:-1], last)
