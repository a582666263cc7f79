import numpy as np
import pytest

from corpus.errors import ConfigError
from corpus.prepared import Label
from rerank.config import HeadWeights
from rerank.heads import head_flags, resolve_weights, taught_heads, weight_array


@pytest.mark.parametrize(
    ("weight", "grade", "flags"),
    [
        (0.2, 1.0, [1, 0, 0]),
        (0.5, 2.0, [1, 1, 0]),
        (1.0, 3.0, [1, 1, 1]),
        (0.0, 0.0, [0, 0, 0]),
        (0.0, 1.5, [1, 0, 0]),  # judged of some use, below what the store counts as positive
        (0.2, 0.6, [1, 0, 0]),  # judged of little use, yet the store counts it as positive
        (0.9, 2.7, [1, 1, 0]),
    ],
)
def test_a_label_is_a_positive_of_every_head_up_to_its_grade(weight: float, grade: float, flags: list[float]):
    assert head_flags(Label(row=0, weight=weight, grade=grade)).tolist() == flags


@pytest.mark.parametrize(
    ("counts", "taught"),
    [
        ([9, 5, 2], ("click", "cart", "purchase")),
        ([9, 0, 0], ("click",)),
        ([9, 9, 9], ("purchase",)),  # purchases alone
        ([9, 2, 2], ("click", "purchase")),  # a log without carts
        ([9, 9, 0], ("cart",)),
    ],
)
def test_a_head_is_taught_by_choices_of_its_own(counts: list[float], taught: tuple[str, ...]):
    assert taught_heads(np.array(counts, dtype=np.float32)) == taught


def test_weights_of_taught_heads_sum_to_one_and_untaught_ones_count_nothing():
    weights = resolve_weights(HeadWeights(click=1.0, cart=5.0, purchase=3.0), ("click", "purchase"))
    assert weights == {"click": 0.25, "cart": 0.0, "purchase": 0.75}
    assert weight_array(weights).tolist() == [0.25, 0.0, 0.75]


def test_weights_that_leave_no_taught_head_are_refused():
    with pytest.raises(ConfigError, match="the data teach, click, got none"):
        resolve_weights(HeadWeights(click=0.0), ("click",))
