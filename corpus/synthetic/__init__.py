"""A store made from a seed: catalogue, shoppers, their log, and the order that an all-knowing ranker would give."""

from corpus.synthetic.config import ChoiceConfig, SyntheticConfig
from corpus.synthetic.oracle import ANONYMOUS_ORACLE_FILE, ORACLE_FILE, Oracle, oracle_ndcg
from corpus.synthetic.store import SyntheticReport, generate

__all__ = [
    "ANONYMOUS_ORACLE_FILE",
    "ORACLE_FILE",
    "ChoiceConfig",
    "Oracle",
    "SyntheticConfig",
    "SyntheticReport",
    "generate",
    "oracle_ndcg",
]
