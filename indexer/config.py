"""Settings of the offline rebuild: the ``[build]`` and ``[gate]`` sections of ``tandem.toml``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from corpus.config import Section

EngineName = Literal["openvino", "torch"]
Precision = Literal["fp32", "int8"]
EncoderPrecision = Literal["auto", "fp32", "int8"]
ItemPrecision = Literal["auto", "fp32", "int8", "bf16"]
Uri = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+]*://.")]


class Canary(Section):
    """``[[build.canaries]]``: a search whose answer is known; a build fails that answers it otherwise.

    It is asked as a shopper without a history would be answered, by both stages.
    """

    query: Annotated[str, Field(min_length=1)]  # what would be typed; appears in the message of a build that fails
    item_id: str | None = None  # the item that must be found; either this or title_contains
    title_contains: str | None = None  # or an item whose title holds this text, in any case
    within: Annotated[int, Field(ge=1, le=200)] = 10  # at this place or before

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if (self.item_id is None) == (not self.title_contains):
            raise ValueError("expected either item_id or title_contains, got both or none; name one")
        return self


class BuildConfig(Section):
    """``[build]``: how a bundle is built and what it must pass.

    The cross-encoder, where nearly all of a search's time goes, is int8, calibrated on the store's own pairs, and so is
    the query encoder, calibrated on its queries, if it finds as much as in fp32.
    """

    engine: EngineName = "openvino"  # openvino: both models are exported, no torch is needed to serve; torch: for GPUs
    encoder_precision: EncoderPrecision = "auto"  # of the exported query encoder; auto: int8, unless it finds less
    # int8: through OpenVINO, for CPUs; bf16: through torch, for a GPU; fp32: through torch
    item_precision: ItemPrecision = "auto"  # of item embeddings; auto: int8 or bf16, unless fp32 is less work
    reranker_precision: Precision = "int8"  # of the exported cross-encoder
    n_calibration: Annotated[int, Field(ge=1)] = 300  # texts that an int8 export is calibrated on, when it is made
    n_recall_queries: Annotated[int, Field(ge=1)] = 500  # validation queries to compare the index with exact search on
    min_ann_recall: Annotated[float, Field(ge=0, le=1)] = 0.99  # ann_recall@100; the cheapest search with it is kept
    n_self_retrieval: Annotated[int, Field(ge=1)] = 500  # items, a seeded sample, that are searched by their own titles
    min_self_retrieval: Annotated[float, Field(ge=0, le=1)] = 0.9  # share of them that is among its own first 10
    suggestion_shoppers: Annotated[int, Field(ge=1)] = 5  # distinct ones who must have typed a suggestion
    max_suggestions: Annotated[int, Field(ge=0)] = 200_000  # queries kept to be suggested, the most popular
    canaries: tuple[Canary, ...] = ()  # searches whose answers are known, which a build must give


class GateConfig(Section):
    """``[gate]``: what a bundle is asked before it is published; ``indexer/gate.py`` has the rules."""

    queries: Annotated[int, Field(ge=1)] = 300  # validation searches, a seeded sample; bounds how long publishing takes
    least_queries: Annotated[int, Field(ge=1)] = 20  # with fewer validation searches to ask, the gate is skipped
    max_slice_loss: Annotated[float, Field(ge=0, le=1)] = 0.02  # MRR@10 that a slice may lose, beyond noise


class BundleStoreConfig(Section):
    """``[bundle_store]``: where published bundles are mirrored to, for servers on other machines."""

    uri: Uri | None = None  # of any protocol that fsspec knows, such as s3://bucket/shop; none: no mirror
