import pytest

from retrieval.fusion import FusionRecall, FusionReport
from retrieval.model_info import FusionInfo, RetrieverModelInfo
from server.cli.models import _fusion

FITTED = FusionReport(
    dense_weight=0.75, mrr=0.5, curve={}, dense_alone=0.4, lexical_alone=0.3, reciprocal_rank=0.45, n_examples=80
)
RECALL = FusionRecall(depth=100, chosen=0.9, curve={}, dense_alone=0.8, lexical_alone=0.7, reciprocal_rank=0.85)


@pytest.mark.parametrize(
    ("recall", "text"),
    [
        (
            RECALL,
            "\nfusion on 80 validation searches, MRR@10 / recall@100: dense weight 0.75 0.500 / 0.900, "
            "dense alone 0.400 / 0.800, BM25 alone 0.300 / 0.700, reciprocal-rank fusion 0.450 / 0.850",
        ),
        (
            None,  # a model that was fitted before recall counted
            "\nfusion on 80 validation searches, MRR@10: dense weight 0.75 0.500, "
            "dense alone 0.400, BM25 alone 0.300, reciprocal-rank fusion 0.450",
        ),
    ],
)
def test_a_fitted_weight_is_reported_with_its_alternatives(recall, text):
    fusion = FusionInfo(dense_weight=0.75, fitted=FITTED.model_copy(update={"recall": recall}))
    assert _fusion(RetrieverModelInfo.model_construct(fusion=fusion)) == text


def test_a_configured_weight_needs_no_report():
    assert _fusion(RetrieverModelInfo.model_construct(fusion=FusionInfo(dense_weight=0.75))) == ""
