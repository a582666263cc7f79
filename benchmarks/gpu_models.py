"""Models of known shapes with random weights, in Tandem's engine and in sentence-transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rerank.inputs import PairTokenizer
from rerank.scorer import Pairs, PairScorer, load_module
from retrieval.engines.encoder import GPU_TOKEN_BUDGET, TextEncoder, open_torch_encoder
from retrieval.quiet import quiet_libraries

# name -> layers, width, attention heads
MODELS = {"MiniLM-L6": (6, 384, 12), "BERT-base": (12, 768, 12)}
TINY = (1, 32, 2)
N_WORDS = 30_000
MAX_TOKENS = 128
EQUAL_HEADS = {"click": 1 / 3, "cart": 1 / 3, "purchase": 1 / 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One shape, ready to run."""

    encoder: TextEncoder  # bf16
    scorer: PairScorer  # bf16
    tokenizer: PairTokenizer
    plain_encoder: Any  # SentenceTransformer in fp16
    plain_scorer: Any  # CrossEncoder in fp16
    dim: int
    n_parameters: int


def open_stack(name: str, folder: Path, device: str, *, tiny: bool) -> Stack:
    """Make a shape's models up and open them.

    Args:
        name: One of ``MODELS``.
        folder: Where they are written.
        device: As torch names it; fp16 is left out on a CPU.
        tiny: One narrow layer instead.
    """
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    from retrieval.engines.torch_engine import TorchEngine

    n_layers, width, n_heads = TINY if tiny else MODELS[name]
    base, encoder_folder, reranker_folder = (folder / f"{name}-{part}" for part in ("base", "encoder", "reranker"))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ";", *(f"w{number}" for number in range(N_WORDS))]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)}, model_max_length=512)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        intermediate_size=4 * width,
        num_labels=3,
    )
    with quiet_libraries():
        BertModel(config).save_pretrained(base)
        tokenizer.save_pretrained(base)
        classifier = BertForSequenceClassification(config)
        n_parameters = sum(parameter.numel() for parameter in classifier.parameters())
        classifier.save_pretrained(reranker_folder)
        tokenizer.save_pretrained(reranker_folder)
        _save_encoder(base, encoder_folder)
        plain_encoder = SentenceTransformer(str(encoder_folder), device=device)
        plain_scorer = CrossEncoder(str(reranker_folder), device=device)
        if device != "cpu":
            plain_encoder.half()
            plain_scorer.half()
    pairs = PairTokenizer.load(reranker_folder)
    engine = TorchEngine(load_module(reranker_folder), device, bfloat16=True)
    return Stack(
        encoder=open_torch_encoder(encoder_folder, role="item", max_tokens=MAX_TOKENS, device=device, precision="bf16"),
        scorer=PairScorer(engine, pairs, EQUAL_HEADS, batch_tokens=GPU_TOKEN_BUDGET),
        tokenizer=pairs,
        plain_encoder=plain_encoder,
        plain_scorer=plain_scorer,
        dim=width,
        n_parameters=n_parameters,
    )


def words(n: int, least: int, most: int, *, seed: int) -> list[str]:
    """Return n texts of ``least`` to ``most`` words, each word one token."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(least, most + 1, n)
    drawn = np.split(rng.integers(0, N_WORDS, int(lengths.sum())), np.cumsum(lengths)[:-1])
    return [" ".join(f"w{word}" for word in some) for some in drawn]


def pairs_of(stack: Stack, query: str, passages: Sequence[Any]) -> Pairs:
    """Return a request's pairs; passages are texts, or tokens as a bundle holds them."""
    start, end = stack.tokenizer.start_id, stack.tokenizer.separator_id
    prefix = np.array([start, *stack.tokenizer.token_ids([query])[0], end], dtype=np.int32)
    tokens = stack.tokenizer.token_ids(passages) if passages and isinstance(passages[0], str) else list(passages)
    return Pairs(prefixes=[prefix] * len(tokens), passages=tokens)


def _save_encoder(base: Path, folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(base), max_seq_length=MAX_TOKENS)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(
        str(folder), create_model_card=False
    )
