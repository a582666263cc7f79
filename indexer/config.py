"""Settings of the offline rebuild: the ``[build]`` section of ``tandem.toml``."""

from typing import Annotated, Literal

from pydantic import Field

from corpus.config import Section

EngineName = Literal["openvino", "torch"]
Precision = Literal["fp32", "int8"]


class BuildConfig(Section):
    """How a bundle is built.

    Attributes:
        engine: What runs both models when the bundle is served: ``openvino`` exports them (no torch is needed to
            serve), ``torch`` copies the model folders into the bundle.
        encoder_precision: Of the exported query encoder. fp32: one query is cheap to encode, and its embedding must
            agree with the index to the last digit that matters.
        reranker_precision: Of the exported cross-encoder, where nearly all of a search's time goes. int8 is
            calibrated on the store's own pairs and runs about 2.7 times as fast as fp32 on CPUs with VNNI.
        n_calibration: Queries (or query-item pairs) that int8 export is calibrated on.
        n_recall_queries: Validation queries on which the vector index is compared with exact search.
        min_ann_recall: A bundle whose ann_recall@100 is lower is refused.
    """

    engine: EngineName = "openvino"
    encoder_precision: Precision = "fp32"
    reranker_precision: Precision = "int8"
    n_calibration: Annotated[int, Field(ge=1)] = 300
    n_recall_queries: Annotated[int, Field(ge=1)] = 500
    min_ann_recall: Annotated[float, Field(ge=0, le=1)] = 0.99
