"""Settings of the offline rebuild: the ``[build]`` and ``[gate]`` sections of ``tandem.toml``."""

from typing import Annotated, Literal

from pydantic import Field

from corpus.config import Section

EngineName = Literal["openvino", "torch"]
Precision = Literal["fp32", "int8"]


class BuildConfig(Section):
    """``[build]``: how a bundle is built and what it must pass.

    The query encoder stays fp32: one query is cheap to encode, and its embedding must agree with the index to the last
    digit that matters. The cross-encoder, where nearly all of a search's time goes, is int8, calibrated on the store's
    own pairs.
    """

    engine: EngineName = "openvino"  # openvino: both models are exported, no torch is needed to serve; torch: for GPUs
    encoder_precision: Precision = "fp32"  # of the exported query encoder
    reranker_precision: Precision = "int8"  # of the exported cross-encoder
    n_calibration: Annotated[int, Field(ge=1)] = 300  # queries that int8 export is calibrated on
    n_recall_queries: Annotated[int, Field(ge=1)] = 500  # validation queries to compare the index with exact search on
    min_ann_recall: Annotated[float, Field(ge=0, le=1)] = 0.99  # ann_recall@100; the cheapest search with it is kept


class GateConfig(Section):
    """``[gate]``: what a bundle is asked before it is published; ``indexer/gate.py`` has the rules."""

    queries: Annotated[int, Field(ge=1)] = 300  # validation searches, a seeded sample; bounds how long publishing takes
    least_queries: Annotated[int, Field(ge=1)] = 20  # with fewer validation searches to ask, the gate is skipped
    max_slice_loss: Annotated[float, Field(ge=0, le=1)] = 0.02  # MRR@10 that a slice may lose, beyond noise
