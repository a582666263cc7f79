from retrieval.fusion import Figures, FusionReport, FusionWeights
from retrieval.model_info import FusionInfo, RetrieverModelInfo
from server.cli.models import _fusion

WEIGHTS = FusionWeights(dense=0.75, behaviour=0.5)
FITTED = FusionReport(
    weights=WEIGHTS,
    depth=100,
    chosen=Figures(mrr=0.5, recall=0.9),
    dense_alone=Figures(mrr=0.4, recall=0.8),
    lexical_alone=Figures(mrr=0.3, recall=0.7),
    text=Figures(mrr=0.45, recall=0.85),
    behaviour_alone=Figures(mrr=0.35, recall=0.6),
    reciprocal_rank=Figures(mrr=0.42, recall=0.84),
    n_examples=80,
)


def test_fitted_weights_are_reported_with_their_alternatives():
    text = _fusion(RetrieverModelInfo.model_construct(fusion=FusionInfo(weights=WEIGHTS, fitted=FITTED)))
    assert text.startswith("\nfusion on 80 validation searches, MRR@10 and recall@100:\n")
    rows = {tuple(line.rsplit(maxsplit=2)) for line in text.splitlines()[2:]}
    assert rows == {
        ("  dense 0.75, behaviour 0.50", "0.500", "0.900"),
        ("  dense alone", "0.400", "0.800"),
        ("  BM25 alone", "0.300", "0.700"),
        ("  both", "0.450", "0.850"),
        ("  both by reciprocal rank", "0.420", "0.840"),
        ("  the query log alone", "0.350", "0.600"),
    }


def test_weights_that_were_not_fitted_need_no_report():
    assert _fusion(RetrieverModelInfo.model_construct(fusion=FusionInfo(weights=WEIGHTS))) == ""
