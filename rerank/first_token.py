"""A last layer that answers for an input's first token alone, which is all that the heads read of it.

Keys and values come from every token, everything behind them from one: a sixth of the layer's work is left. No engine
finds that out by itself: OpenVINO computes every token's answer before it takes the first.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

_FAMILIES = ("bert", "roberta", "xlm-roberta")  # whose heads read the first token, and whose layers are of one form


class FirstTokenLayer(nn.Module):
    """A layer of BERT's form, with the same weights, cut down to the first token's answer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer  # transformers' classes share no useful type

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *_: object,
        **__: object,
    ) -> torch.Tensor:
        """Run the layer: (n, length, dim) to (n, 1, dim).

        Args:
            hidden_states: What the layer below answered.
            attention_mask: (n, 1, length, length), bool or to be added, as the library makes it for its layers; None:
                no padding.
        """
        attention = self.layer.attention.self
        first = hidden_states[:, :1]  # (n, 1, dim)
        context = scaled_dot_product_attention(
            self._heads(attention.query(first)),  # (n, n_heads, 1, head_dim)
            self._heads(attention.key(hidden_states)),  # (n, n_heads, length, head_dim)
            self._heads(attention.value(hidden_states)),
            attn_mask=None if attention_mask is None else attention_mask[:, :, :1],
            scale=attention.scaling,
        )
        joined = context.transpose(1, 2).flatten(2)  # (n, 1, dim)
        answer: torch.Tensor = self.layer.feed_forward_chunk(self.layer.attention.output(joined, first))
        return answer

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        """Part the heads: (n, length, dim) to (n, n_heads, length, head_dim)."""
        n, length, _ = projected.shape
        return projected.view(n, length, -1, self.layer.attention.self.attention_head_size).transpose(1, 2)


def read_first_token(classifier: Any) -> Any:  # noqa: ANN401
    """Cut the last layer of a classifier of a known family down, in place; leave any other as it is.

    For inference: dropout of attention is left out, and the weights' names change.

    Args:
        classifier: A sequence classifier of the transformers library.
    Returns:
        The same classifier.
    """
    # attention kernels of other kinds get other masks
    if classifier.config.model_type in _FAMILIES and classifier.config._attn_implementation in ("sdpa", "eager"):
        layers = classifier.base_model.encoder.layer
        layers[-1] = FirstTokenLayer(layers[-1])
    return classifier
