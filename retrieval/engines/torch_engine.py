"""The engine of training and evaluation: torch modules, unexported. Imports torch; serving never imports this."""

import inspect
from pathlib import Path

import torch
from tokenizers import Tokenizer

from corpus.errors import ArtefactError, ConfigError, DeviceUnavailable
from retrieval.arrays import FloatArray, IntArray
from retrieval.quiet import quiet_libraries

ROUTES = {"query": "query", "item": "document"}  # Tandem's roles and the names that sentence-transformers gives them


class EmbeddingModule(torch.nn.Module):
    """A transformer, pooled and L2-normalised: what training tunes and what is exported."""

    def __init__(self, transformer: torch.nn.Module, pooling: str, *, dim: int | None = None) -> None:
        """Wrap a transformer.

        Args:
            transformer: A bare encoder of the transformers library.
            pooling: "mean" over the tokens that are no padding, or "cls" for the first token.
            dim: Keep so many numbers of an embedding, the first ones; None: all.
        Raises:
            ArtefactError: If the pooling is another.
            ConfigError: If embeddings are narrower than ``dim``.
        """
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ArtefactError(
                f"expected an encoder with mean or cls pooling, got {pooling!r}; use another base model"
            )
        self.width = int(transformer.config.hidden_size)  # type: ignore[union-attr, arg-type]
        if dim is not None and dim > self.width:
            raise ConfigError(f"expected retriever.dim of at most {self.width}, the model's width, got {dim}; lower it")
        self.transformer = transformer
        self.pooling = pooling
        self.dim = self.width if dim is None else dim
        self.reads_segments = "token_type_ids" in inspect.signature(transformer.forward).parameters

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Embed a padded batch: three (n, length) tensors to (n, dim), rows of length 1."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.reads_segments:
            inputs["token_type_ids"] = token_type_ids
        hidden = self.transformer(**inputs, return_dict=True).last_hidden_state.float()  # (n, length, dim)
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (n, length, 1)
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled[:, : self.dim], dim=1)


class TorchEngine:
    """Runs a torch module that takes the three token arrays and returns (n, out_dim) or (n,)."""

    def __init__(self, module: torch.nn.Module, device: str | None = None, *, bfloat16: bool = False) -> None:
        """Take a module over; it is moved to the device and set to evaluation.

        Args:
            module: Called with ``input_ids``, ``attention_mask`` and ``token_type_ids`` by name.
            device: As torch names it; None: the first CUDA device if there is one, else the CPU.
            bfloat16: Compute in it where torch deems that safe; sums and norms stay float32.
        Raises:
            DeviceUnavailable: If the device does not exist.
        """
        name = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.device = torch.device(name)
            self.module = module.to(self.device).eval()
            self._bfloat16 = bfloat16
        except (RuntimeError, AssertionError) as exc:
            raise DeviceUnavailable(f"expected a torch device, got {name!r}: {exc}; use the device cpu") from exc

    def run(self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray) -> FloatArray:
        """Run the module over a padded batch; see ``retrieval.engines.engine.Engine.run``."""
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            output = self.module(**{name: torch.as_tensor(array).to(self.device) for name, array in arrays.items()})
        numbers: FloatArray = output.float().reshape(len(input_ids), -1).cpu().contiguous().numpy()
        return numbers


def open_tower(model_dir: Path, role: str, *, dim: int | None = None) -> tuple[EmbeddingModule, Tokenizer]:
    """Take one tower and its tokenizer out of a SentenceTransformer folder.

    Args:
        model_dir: The folder: Transformer, Pooling, Normalize; or a Router with such a chain per side.
        role: "query" or "item".
        dim: Width to cut embeddings to; None: the model's.
    Raises:
        ArtefactError: If the folder is no such model, or has parts that ``EmbeddingModule`` lacks.
        ConfigError: If the model is narrower than ``dim``.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Router, Transformer

    if not (model_dir / "modules.json").is_file():
        raise ArtefactError(f"expected a SentenceTransformer folder at {model_dir}, found none; train the retriever")
    try:
        with quiet_libraries():
            model = SentenceTransformer(str(model_dir), device="cpu", local_files_only=True)
    except (OSError, ValueError, RuntimeError) as exc:
        raise ArtefactError(f"expected a SentenceTransformer folder at {model_dir}, got: {exc}") from exc
    modules = list(model.children())
    if isinstance(modules[0], Router):
        side = modules[0].sub_modules[ROUTES[role]]
        modules = [*side.children(), *modules[1:]]
    kinds = [type(module) for module in modules]
    if kinds[:2] != [Transformer, Pooling] or kinds[2:] not in ([], [Normalize]):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ArtefactError(f"expected a Transformer, a Pooling and at most a Normalize in {model_dir}, got {names}")
    transformer, pooling = modules[:2]
    tokenizer = Tokenizer.from_str(transformer.tokenizer.backend_tokenizer.to_str())
    return EmbeddingModule(transformer.auto_model, pooling.pooling_mode, dim=dim), tokenizer
