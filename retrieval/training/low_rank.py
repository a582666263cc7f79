"""LoRA: tuning small matrices beside frozen weights, and merging them in at the end. Imports torch and peft."""

import torch
from peft import LoraConfig, LoraModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

ADAPTER = "default"


class LowRank:
    """The adapters of all towers of a model, for the time of its training.

    Source: Hu et al. 2022, "LoRA: Low-rank adaptation of large language models"; in every linear layer and with twice
        the rank as scale: Dettmers et al. 2023, "QLoRA: Efficient finetuning of quantized LLMs", sec. 4 and 5.
    """

    def __init__(self, model: SentenceTransformer, rank: int, *, seed: int) -> None:
        """Freeze the towers' weights and put adapters into them, which change nothing yet.

        Args:
            model: The towers; changed in place.
            rank: Of the adapters' matrices.
            seed: Of their first values.
        """
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        self._transformers = [module for module in model.modules() if isinstance(module, Transformer)]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._tuners = [LoraModel(each.auto_model, {ADAPTER: config}, ADAPTER) for each in self._transformers]

    def merge(self) -> None:
        """Add the adapters to the weights and take them out: what remains is the model that was, tuned."""
        for transformer, tuner in zip(self._transformers, self._tuners, strict=True):
            transformer.model = tuner.merge_and_unload()
