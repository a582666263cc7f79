import numpy as np
import pytest

from corpus.synthetic.config import SyntheticConfig
from corpus.synthetic.shoppers import Shoppers, Timetable, draw_timetable

CONFIG = SyntheticConfig(n_shoppers=100, n_searches=2000, days=30)


@pytest.fixture(scope="module")
def timetable() -> Timetable:
    return draw_timetable(CONFIG, np.random.default_rng(4))


def test_all_searches_lie_within_the_days_in_order_of_time(timetable: Timetable):
    assert len(timetable.at_us) == CONFIG.n_searches
    assert np.all(np.diff(timetable.at_us) >= 0)
    assert timetable.at_us.min() >= 0
    assert timetable.at_us.max() < CONFIG.days * 86_400e6


def test_searches_of_a_shopper_are_three_minutes_apart_and_numbered_in_turn(timetable: Timetable):
    for shopper in range(CONFIG.n_shoppers):
        mine = timetable.shopper == shopper
        assert np.all(np.diff(timetable.at_us[mine]) >= 179_999_000)
        np.testing.assert_array_equal(timetable.turn[mine], np.arange(mine.sum()))


def test_a_session_belongs_to_one_shopper_and_opens_once(timetable: Timetable):
    for session in np.unique(timetable.session):
        mine = timetable.session == session
        assert len(set(timetable.shopper[mine])) == 1
        np.testing.assert_array_equal(timetable.opens_session[mine], np.arange(mine.sum()) == 0)
        assert np.ptp(timetable.at_us[mine]) < 3 * 3600e6


def test_sessions_hold_one_or_more_searches(timetable: Timetable):
    sizes = np.bincount(timetable.session)
    assert sizes.min() == 1
    assert 1.3 < sizes.mean() < 2.2


def test_a_few_shoppers_make_most_searches(timetable: Timetable):
    counts = np.sort(np.bincount(timetable.shopper, minlength=CONFIG.n_shoppers))[::-1]
    assert counts[:20].sum() > 0.4 * counts.sum()


def test_each_shopper_has_a_preferred_price_level_and_standing_favourites(shoppers: Shoppers):
    np.testing.assert_array_equal(shoppers.level.max(axis=1), 0)
    assert np.all((shoppers.level == 0).sum(axis=1) == 1)
    assert np.median(shoppers.brand.max(axis=1)) > 2
    assert np.median(shoppers.brand.min(axis=1)) < -1
    assert np.all((shoppers.department > 0).sum(axis=1) == 3)
