"""The torch side of the model: loading, and the one form in which training, engines and export see it."""

from typing import Any

import torch
from torch import nn

from corpus.errors import ConfigError
from rerank.config import RerankerConfig
from rerank.heads import N_HEADS


class CrossEncoder(nn.Module):
    """A transformers sequence classifier with one output per head, called with the engines' three inputs."""

    def __init__(self, classifier: Any) -> None:  # noqa: ANN401 - transformers' classes share no useful type
        super().__init__()
        self.classifier = classifier

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Score pairs: int64 (n, length) three times in, float32 (n, 3) out."""
        return pair_logits(self.classifier, input_ids, attention_mask, token_type_ids)


def pair_logits(
    classifier: Any,  # noqa: ANN401
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor,
) -> torch.Tensor:
    """Run a classifier: int64 (n, length) three times in, (n, 3) out. Segments go to models that tell two apart."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    # DistributedDataParallel and its kin hide the model's configuration
    config = getattr(classifier, "module", classifier).config
    if int(getattr(config, "type_vocab_size", 0) or 0) > 1:
        inputs["token_type_ids"] = token_type_ids
    logits: torch.Tensor = classifier(**inputs, return_dict=True).logits
    return logits


def load_classifier(path: str, *, n_layers: int | None = None) -> Any:  # noqa: ANN401
    """Load a model folder or hub id as a sequence classifier with one output per head of ``rerank.heads``.

    A cross-encoder with a single output, as others publish them, starts all heads from it; any other head that does
    not fit, and a missing one, is drawn at random.

    Args:
        path: A transformers folder or a hub id.
        n_layers: Keep only the first so many layers.
    Raises:
        ConfigError: If it cannot be loaded, has no segments input, or has fewer layers than asked for.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config = AutoConfig.from_pretrained(path)
        single = config.num_labels == 1 and any("Classification" in name for name in config.architectures or ())
        if not single:
            config.num_labels = N_HEADS
        depth = getattr(config, "num_hidden_layers", None)
        if n_layers is not None:
            if depth is None or n_layers > depth:
                raise ConfigError(
                    f"expected [reranker] n_layers of at most {depth}, the base model's depth, got {n_layers}; lower it"
                )
            config.num_hidden_layers = n_layers
        classifier = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, KeyError) as exc:
        raise ConfigError(
            f"expected a transformers model with safetensors weights at [reranker] base_model, got {path}: {exc}"
        ) from exc
    if single:
        _repeat_output(classifier)
    return classifier


def _repeat_output(classifier: Any) -> None:  # noqa: ANN401
    """Give every head a copy of the only output."""
    name, output = [
        (name, module)
        for name, module in classifier.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == 1
    ][-1]
    heads = nn.Linear(output.in_features, N_HEADS, bias=output.bias is not None)
    with torch.no_grad():
        for mine, single in zip(heads.parameters(), output.parameters(), strict=True):
            mine.copy_(single.expand_as(mine))
    parent, _, attribute = name.rpartition(".")
    setattr(classifier.get_submodule(parent), attribute, heads)
    classifier.config.num_labels = classifier.num_labels = N_HEADS


def check_length(classifier: Any, config: RerankerConfig) -> None:  # noqa: ANN401
    """Refuse token budgets that the model has no positions for.

    Raises:
        ConfigError: If the longest possible input is too long.
    """
    longest = config.max_query_tokens + config.max_history_tokens + config.max_item_tokens + 4
    limit = getattr(classifier.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise ConfigError(
            f"expected max_query_tokens + max_history_tokens + max_item_tokens + 4 of at most {limit}, "
            f"the base model's positions, got {longest}; lower one of them in [reranker]"
        )
