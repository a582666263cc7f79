import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ArtefactError
from corpus.items import ItemTable
from corpus.prepared import Prepared
from rerank.history import item_names
from rerank.inputs import PassageTokens
from rerank.model_info import RerankerModelInfo
from rerank.quantisation import calibration_batches
from rerank.scorer import Pairs, PairScorer, export_reranker, open_scorer, open_torch_scorer, read_info
from retrieval.passages import passages

ROOT = Path(__file__).parents[2]
CLICKS = {"click": 1.0, "cart": 0.0, "purchase": 0.0}


class Recorder:
    """An engine that answers one, two and three times the sum of an input's tokens, and remembers its batches."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray) -> np.ndarray:
        self.shapes.append(input_ids.shape)
        return (input_ids * attention_mask).sum(axis=1, keepdims=True) * np.array([1, 2, 3], dtype=np.float32)


@pytest.fixture(scope="module")
def torch_scorer(trained: Path) -> PairScorer:
    return open_torch_scorer(trained, device="cpu")


@pytest.fixture(scope="module")
def tokens(tiny_items: ItemTable, torch_scorer: PairScorer, trained_info: RerankerModelInfo) -> PassageTokens:
    texts = passages(tiny_items, trained_info.config.item_fields)
    return PassageTokens.build(torch_scorer.tokenizer, texts, trained_info.config.max_item_tokens)


@pytest.fixture(scope="module")
def pairs(
    tasteful: Prepared,
    tiny_items: ItemTable,
    torch_scorer: PairScorer,
    tokens: PassageTokens,
    trained_info: RerankerModelInfo,
) -> Pairs:
    names = item_names(tiny_items)
    prefixes = [
        torch_scorer.tokenizer.prefix(example.query, example.history, names, trained_info.config)
        for example in tasteful.examples("valid", limit=60)
    ]
    return Pairs(prefixes=prefixes, passages=[tokens.of(row) for row in range(len(prefixes))])


@pytest.fixture(scope="module", params=["fp32", "int8"])
def exported(
    request: pytest.FixtureRequest,
    trained: Path,
    tasteful: Prepared,
    tiny_items: ItemTable,
    torch_scorer: PairScorer,
    tokens: PassageTokens,
    word_retriever,
    trained_info: RerankerModelInfo,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    searches = [
        (example, word_retriever.retrieve(example.query, 20).rows) for example in tasteful.examples("train", limit=20)
    ]
    batches = calibration_batches(torch_scorer.tokenizer, tokens, item_names(tiny_items), trained_info.config, searches)
    out = tmp_path_factory.mktemp("exported") / request.param
    export_reranker(trained, out, precision=request.param, calibration=batches)
    return out


def test_scores_come_back_in_the_order_of_the_pairs(pair_tokenizer):
    lengths = [5, 1, 9, 2, 9, 1]
    pairs = Pairs(
        prefixes=[np.full(2, 100, dtype=np.int32)] * len(lengths),
        passages=[np.full(n, 7, dtype=np.int32) for n in lengths],
    )
    engine = Recorder()
    scores = PairScorer(engine, pair_tokenizer, CLICKS, batch_tokens=24).score(pairs)
    np.testing.assert_array_equal(scores, [200 + 7 * n + pair_tokenizer.separator_id for n in lengths])
    assert all(n * width <= 24 for n, width in engine.shapes)
    assert len(engine.shapes) < len(lengths)


def test_the_ranking_value_is_the_weighted_sum_of_the_heads(pair_tokenizer):
    pairs = Pairs(prefixes=[np.full(1, 4, dtype=np.int32)], passages=[np.full(1, 6, dtype=np.int32)])
    total = 4 + 6 + pair_tokenizer.separator_id
    scorer = PairScorer(Recorder(), pair_tokenizer, {"click": 0.25, "cart": 0.0, "purchase": 0.75})
    np.testing.assert_array_equal(scorer.heads(pairs), [[total, 2 * total, 3 * total]])
    np.testing.assert_allclose(scorer.score(pairs), [0.25 * total + 0.75 * 3 * total])


def test_a_head_without_weight_cannot_spoil_the_ranking_value(pair_tokenizer):
    logits = np.array([[2.0, np.inf, np.nan]], dtype=np.float32)
    assert PairScorer(Recorder(), pair_tokenizer, CLICKS).ranking_values(logits).tolist() == [2.0]


def test_a_pair_longer_than_the_budget_runs_alone(pair_tokenizer):
    pairs = Pairs(prefixes=[np.ones(9, dtype=np.int32)] * 2, passages=[np.ones(9, dtype=np.int32)] * 2)
    engine = Recorder()
    PairScorer(engine, pair_tokenizer, CLICKS, batch_tokens=10).score(pairs)
    assert engine.shapes == [(1, 19), (1, 19)]


def test_no_pairs_give_no_scores(pair_tokenizer):
    assert PairScorer(Recorder(), pair_tokenizer, CLICKS).score(Pairs(prefixes=[], passages=[])).shape == (0,)


def test_a_pairs_score_does_not_depend_on_its_batch(torch_scorer: PairScorer, pairs: Pairs):
    together = torch_scorer.heads(pairs)
    alone = PairScorer(torch_scorer.engine, torch_scorer.tokenizer, CLICKS, batch_tokens=1).heads(pairs)
    assert together.shape == (60, 3)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert (together.std(axis=0) > 0.05).all()  # or anything would agree


def test_an_exported_engine_agrees_with_torch(exported: Path, torch_scorer: PairScorer, pairs: Pairs):
    want = torch_scorer.heads(pairs)
    scorer = open_scorer(exported, n_threads=1)
    got = scorer.heads(pairs)
    assert got.shape == (60, 3)
    np.testing.assert_array_equal(scorer.probabilities(want), torch_scorer.probabilities(want))
    assert np.isfinite(scorer.probabilities(want)[:, 2]).all()
    if read_info(exported).precision == "fp32":
        np.testing.assert_allclose(got, want, atol=1e-4)
        alone = PairScorer(scorer.engine, scorer.tokenizer, CLICKS, batch_tokens=1).heads(pairs)
        np.testing.assert_allclose(got, alone, atol=1e-5)
    else:
        taught = got[:, 2], want[:, 2]  # the head that the store's purchases teach
        assert np.corrcoef(*taught)[0, 1] > 0.9  # 32 dimensions leave rounding little to average over
        assert not np.array_equal(got, want)  # int8 it is


def test_an_export_says_what_it_was_made_from(exported: Path, trained_info: RerankerModelInfo):
    info = read_info(exported)
    assert info.fingerprint == trained_info.fingerprint
    assert info.retriever_fingerprint == "retriever"
    assert info.score_weights == trained_info.score_weights
    assert info.head_weights == trained_info.head_weights
    assert info.probability_maps == trained_info.probability_maps
    assert info.config == trained_info.config


def test_an_exported_reranker_opens_without_torch(exported: Path):
    script = f"""
import sys
for name in ("torch", "transformers", "sentence_transformers", "nncf", "sklearn", "scipy"):
    sys.modules[name] = None  # any import of it fails
from pathlib import Path
import numpy as np
from rerank.reranker import open_reranker
from rerank.scorer import Pairs, open_scorer
scorer = open_scorer(Path({str(exported)!r}), n_threads=1)
prefix = scorer.tokenizer.token_ids(["red shoe"])[0]
print(scorer.score(Pairs(prefixes=[prefix], passages=[prefix])).shape)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1,)"


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_broken_description_is_an_artefact_error(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "reranker.json").write_text(content, encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"reranker\.json"):
        read_info(tmp_path)


def test_an_unfinished_version_is_not_exported(tmp_path: Path):
    with pytest.raises(ArtefactError, match="tandem train reranker"):
        export_reranker(tmp_path, tmp_path / "out", precision="fp32", calibration=[])
