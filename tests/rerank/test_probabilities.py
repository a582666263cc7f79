import logging

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from rerank.probabilities import (
    Isotonic,
    Platt,
    ProbabilityMap,
    expected_calibration_error,
    fit_calibration,
    probabilities,
    sigmoid,
)

N_QUERIES, DEPTH = 400, 10


def store(chance_of, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates with normal logits, chosen by chance; purchases are half of the clicks. No carts."""
    generator = np.random.default_rng(seed)
    queries = np.repeat(np.arange(N_QUERIES), DEPTH)
    logits = np.repeat(generator.normal(size=(len(queries), 1)), 3, axis=1).astype(np.float32)
    clicked = generator.random(len(queries)) < chance_of(logits[:, 0])
    bought = clicked & (generator.random(len(queries)) < 0.5)
    return logits, np.stack([clicked, bought, bought], axis=1), queries


def test_a_hand_worked_calibration_error():
    # 30 candidates, 15 bins of 2: the chances are right in all but the last bin, which says .9 and gets .5
    chances = np.repeat(np.linspace(0.0, 0.9, 15), 2)
    happened = chances.copy()
    happened[-2:] = [0, 1]
    assert expected_calibration_error(chances, happened) == pytest.approx(2 / 30 * 0.4)


def test_errors_of_two_bins_do_not_cancel():
    assert expected_calibration_error(np.repeat([0.4, 0.6], [14, 16]), np.full(30, 0.5)) == pytest.approx(0.1)


def test_bins_hold_equally_many_candidates():
    # of 150 candidates 140 have chance 0: with bins of equal width their error would be one of fifteen in weight
    chances = np.concatenate([np.zeros(140), np.full(10, 1.0)])
    happened = np.concatenate([np.ones(140), np.ones(10)])
    assert expected_calibration_error(chances, happened) == pytest.approx(140 / 150)


def test_few_candidates_and_none_have_an_error_too():
    assert expected_calibration_error([0.25, 0.5], [0, 1]) == pytest.approx((0.25 + 0.5) / 2)
    assert expected_calibration_error([], []) == 0.0


def test_a_sigmoid_neither_overflows_nor_leaves_the_range():
    np.testing.assert_allclose(sigmoid(np.array([-1e5, 0.0, np.log(3.0), 1e5])), [0.0, 0.5, 0.75, 1.0])


def test_hand_worked_maps():
    assert Platt(slope=2.0, intercept=-np.log(3.0)).apply([0.0, np.log(3.0)]) == pytest.approx([0.25, 0.75])
    knots = Isotonic(logits=(0.0, 1.0, 2.0), probabilities=(0.1, 0.1, 0.5))
    assert knots.apply([-9.0, 0.5, 1.5, 9.0]) == pytest.approx([0.1, 0.1, 0.3, 0.5])
    assert np.isnan([Platt(slope=1.0, intercept=0.0).apply(np.nan), knots.apply(np.nan)]).all()


@pytest.mark.parametrize("found", [Platt(slope=0.1, intercept=1 / 3), Isotonic(logits=(0.1,), probabilities=(0.7,))])
def test_a_map_reads_back_from_json_as_itself(found: ProbabilityMap):
    assert TypeAdapter(ProbabilityMap).validate_json(found.model_dump_json()) == found


def test_a_falling_map_is_refused():
    with pytest.raises(ValidationError, match="slope"):
        Platt(slope=-1.0, intercept=0.0)


def test_probabilities_form_a_funnel_and_what_is_unknown_bounds_nothing():
    same = Platt(slope=1.0, intercept=0.0)
    logits = np.array([[0.0, 1.0, -1.0], [0.0, np.nan, 1.0], [np.nan, np.nan, np.nan]], dtype=np.float32)
    found = probabilities(logits, {"click": same, "cart": same, "purchase": same})
    assert found.dtype == np.float32
    a, b = 0.5, 1 / (1 + np.e)
    np.testing.assert_allclose(found, [[a, a, b], [a, np.nan, a], [np.nan] * 3], rtol=1e-6)
    without_cart = probabilities(logits, {"click": same, "purchase": same})
    np.testing.assert_allclose(without_cart[0], [a, np.nan, b], rtol=1e-6)


def test_a_sigmoid_is_found_again_as_one():
    fitted = fit_calibration(*store(lambda x: sigmoid(2.0 * x - 1.0)), ("click", "cart", "purchase"))
    found = fitted.maps["click"]
    assert isinstance(found, Platt)
    assert (found.slope, found.intercept) == (pytest.approx(2.0, abs=0.15), pytest.approx(-1.0, abs=0.15))
    assert fitted.metrics["ece_click"] < 0.03 < fitted.metrics["ece_click_uncalibrated"]
    assert fitted.metrics["ece_purchase"] < 0.03


def test_a_step_is_found_as_one():
    fitted = fit_calibration(*store(lambda x: np.where(x > 1.0, 0.6, 0.05)), ("click",))
    found = fitted.maps["click"]
    assert isinstance(found, Isotonic)
    np.testing.assert_allclose(found.apply([-1.0, 0.8, 1.2, 2.0]), [0.05, 0.05, 0.6, 0.6], atol=0.06)
    assert (np.diff(found.logits) > 0).all()
    assert (np.diff(found.probabilities) >= 0).all()
    assert set(fitted.maps) == {"click"}  # only the heads that were trained


def test_a_head_that_orders_the_wrong_way_round_gets_the_rate():
    logits, chosen, queries = store(lambda x: sigmoid(-3.0 * x))
    found = fit_calibration(logits, chosen, queries, ("click",)).maps["click"]
    np.testing.assert_allclose(found.apply([-2.0, 2.0]), chosen[:, 0].mean(), atol=0.02)


def test_the_error_is_told_of_searches_that_the_map_was_not_fitted_on():
    # equal logits; all choices lie in every fifth search, which is one fold: the others predict 0 of it, and it makes
    # them predict 1/4 of each other. A map fitted on all of them would predict the true rate, 1/5
    queries = np.repeat(np.arange(100), 2)
    logits = np.ones((200, 3), dtype=np.float32)
    chosen = np.repeat(queries[:, None] % 5 == 0, 3, axis=1)
    fitted = fit_calibration(logits, chosen, queries, ("click",))
    assert fitted.maps["click"].apply(1.0) == pytest.approx(0.2, abs=0.01)
    assert fitted.metrics["ece_click"] == pytest.approx(0.2 * 1 + 0.8 * 0.25, abs=0.02)


def test_perfectly_separated_choices_stay_finite():
    logits = np.tile([[3.0] * 3, [-3.0] * 3], (20, 1)).astype(np.float32)
    chosen = logits > 0
    found = fit_calibration(logits, chosen, np.repeat(np.arange(20), 2), ("click",)).maps["click"]
    low, high = found.apply([-3.0, 3.0])
    assert 0 < low < 0.1
    assert 0.9 < high < 1


def test_a_head_with_too_few_choices_stays_unknown(caplog):
    logits, chosen, queries = store(lambda x: 0.3)
    chosen[queries >= 9, 2] = False
    with caplog.at_level(logging.WARNING):
        fitted = fit_calibration(logits, chosen, queries, ("click", "purchase"))
    assert set(fitted.maps) == {"click"}
    assert "purchase" in caplog.text
