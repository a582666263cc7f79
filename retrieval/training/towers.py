"""The two towers in training: one shared encoder, or a separate one per side. Imports torch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Router, Transformer
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from corpus.errors import ConfigError
from retrieval.arrays import FloatArray, IntArray
from retrieval.config import RetrieverConfig
from retrieval.engines.batches import batches_by_length
from retrieval.engines.encoder import EncoderInfo, Role, TextEncoder, pad
from retrieval.engines.engine import TokenBatch
from retrieval.engines.torch_engine import ROUTES
from retrieval.quiet import quiet_libraries
from retrieval.training.base_models import resolve_base_model

POOLINGS = ("mean", "cls")  # what retrieval.torch_engine can reproduce
# padded tokens per pass on a CPU: passes of like length save the padding, which a GPU does not mind
CPU_TOKENS_PER_PASS = 1024


def load_towers(config: RetrieverConfig, *, device: str) -> SentenceTransformer:
    """Load the base model as both towers.

    A base model's prompts are not used: tuned towers read bare text.

    Args:
        config: Names the base model, and whether the towers share their weights.
        device: As torch names it.
    Returns:
        Transformer, pooling, L2 normalisation; for separate towers a ``Router`` with such a chain per side.
    Raises:
        ConfigError: If there is no such model, or one that Tandem cannot export, or its texts are shorter, or
            its embeddings narrower, than asked.
    """
    name = resolve_base_model(config.base_model)
    sizes = {"query": config.max_query_tokens, "item": config.max_item_tokens}
    model = _load(name, sizes, config, device)
    width, widest = model.get_embedding_dimension(), max((config.dim or 1, *config.train.matryoshka_dims))
    if widest > width:
        raise ConfigError(f"{name} gives {width} dimensions, {widest} are asked for; lower dim or matryoshka_dims")
    return model


def _load(name: str, sizes: dict[str, int], config: RetrieverConfig, device: str) -> SentenceTransformer:
    if config.towers == "shared":
        return SentenceTransformer(modules=_chain(name, max(sizes.values())), device=device)
    router = Router.for_query_document(
        query_modules=_chain(name, sizes["query"]), document_modules=_chain(name, sizes["item"])
    )
    return SentenceTransformer(modules=[router], device=device)


def open_towers(folder: Path, *, device: str) -> SentenceTransformer:
    """Open tuned towers, to tune them further.

    Args:
        folder: What ``load_towers`` returned, saved.
        device: As torch names it.
    """
    with quiet_libraries():
        return SentenceTransformer(str(folder), device=device, local_files_only=True)


def _chain(name: str, max_tokens: int) -> list[torch.nn.Module]:
    try:
        with quiet_libraries():
            modules = list(SentenceTransformer(name, device="cpu").children())
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        raise ConfigError(f"expected a text encoder as base model, got {name}: {exc}; name another") from exc
    kinds = [type(module) for module in modules]
    if kinds[:2] != [Transformer, Pooling] or kinds[2:] not in ([], [Normalize]):
        found = ", ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"expected a base model of Transformer, Pooling and Normalize, got {found}; name another")
    transformer, pooling = modules[:2]
    if pooling.pooling_mode not in POOLINGS:
        raise ConfigError(f"expected a base model with mean or cls pooling, got {pooling.pooling_mode!r}; name another")
    if not getattr(transformer.tokenizer, "is_fast", False):
        raise ConfigError(f"expected a base model with a tokenizer.json, {name} has none; name another")
    longest = getattr(transformer.auto_model.config, "max_position_embeddings", None) or max_tokens
    if max_tokens > longest:
        raise ConfigError(f"{name} reads at most {longest} tokens, {max_tokens} are asked for; lower max_item_tokens")
    transformer.max_seq_length = max_tokens
    return [transformer, pooling, Normalize()]


class TowerTokenizer:
    """Turns texts into padded batches for one tower."""

    def __init__(self, model: SentenceTransformer, role: Role, max_tokens: int) -> None:
        """Take a copy of the tower's tokenizer.

        Args:
            model: The towers.
            role: Which tower.
            max_tokens: Texts are cut to so many tokens.
        """
        first = next(iter(model.children()))
        transformer = first.sub_modules[ROUTES[role]][0] if isinstance(first, Router) else first
        self.tokenizer = Tokenizer.from_str(transformer.tokenizer.backend_tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self._pad_id = int(transformer.tokenizer.pad_token_id or 0)

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Return the texts as one batch, padded to the longest."""
        return pad([encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))], self._pad_id)


def features_of(batch: TokenBatch) -> dict[str, Tensor]:
    """Return a padded batch as tensors by the names that transformers gives them."""
    return {
        "input_ids": torch.from_numpy(batch.input_ids),
        "attention_mask": torch.from_numpy(batch.attention_mask),
        "token_type_ids": torch.from_numpy(batch.token_type_ids),
    }


def embed(model: SentenceTransformer, features: dict[str, Tensor], role: Role, *, chunk: int | None = None) -> Tensor:
    """Embed a padded batch with one tower, gradients included.

    With ``chunk``, only the embeddings stay in memory, and each chunk is run again, with the same dropout, when its
    gradient has come: the gradient is the same, one more forward pass is its price, and a batch may have any size.

    Args:
        model: The towers.
        features: ``input_ids``, ``attention_mask``, ``token_type_ids``: int64 (n, length).
        role: Which tower.
        chunk: Texts per pass whose activations are held at one time; None: all activations are held.
    Returns:
        (n, dim), rows of length 1, in the order of the batch.
    Source: Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup" (GradCache),
        here by torch's own checkpointing of a whole pass.
    """
    inputs = {name: features[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    if chunk is None and inputs["input_ids"].device.type != "cpu":
        return _forward(model, inputs, role)
    lengths = inputs["attention_mask"].sum(dim=1)  # (n,)
    if chunk is None:
        passes = [torch.tensor(rows) for rows in batches_by_length(lengths.tolist(), CPU_TOKENS_PER_PASS)]
    else:
        by_length = torch.argsort(lengths, stable=True)
        passes = [by_length[start : start + chunk] for start in range(0, len(by_length), chunk)]
    parts = []
    for rows in passes:
        longest = int(lengths[rows].max())
        part = {name: tensor[rows, :longest] for name, tensor in inputs.items()}
        if chunk is None:
            parts.append(_forward(model, part, role))
        else:
            parts.append(checkpoint(_forward, model, part, role, use_reentrant=False))
    order = torch.argsort(torch.cat(passes))  # where each text of the batch went
    return torch.cat(parts)[order]


def _forward(model: SentenceTransformer, inputs: dict[str, Tensor], role: Role) -> Tensor:
    embeddings: Tensor = model(dict(inputs), task=ROUTES[role])["sentence_embedding"]
    return embeddings


class _TowerEngine:
    """Runs one tower of a model in training, for validation."""

    def __init__(self, model: SentenceTransformer, role: Role) -> None:
        self._model = model
        self._role = role

    def run(self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray) -> FloatArray:
        """Run the tower over a padded batch; see ``retrieval.engines.engine.Engine.run``."""
        batch = TokenBatch(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        inputs = {name: tensor.to(self._model.device) for name, tensor in features_of(batch).items()}
        with torch.inference_mode():
            numbers: FloatArray = _forward(self._model, inputs, self._role).float().cpu().numpy()
        return numbers


def encode_texts(model: SentenceTransformer, texts: Sequence[str], *, role: Role, max_tokens: int) -> FloatArray:
    """Embed texts with a tower as it is now, in evaluation mode; the model's mode is restored.

    Returns:
        float32 (n, dim), L2-normalised, in the order of the texts.
    """
    info = EncoderInfo(
        dim=model.get_embedding_dimension(), max_tokens=max_tokens, fingerprint="", precision="fp32", role=role
    )
    training = model.training
    model.eval()
    try:
        tokenizer = TowerTokenizer(model, role, max_tokens).tokenizer
        return TextEncoder(tokenizer, _TowerEngine(model, role), info).encode(texts)
    finally:
        model.train(training)
