import numpy as np
import pytest

from corpus.synthetic.catalogue import BRAND, STYLE, Catalogue
from corpus.synthetic.config import ChoiceConfig, SyntheticConfig
from corpus.synthetic.shoppers import Shoppers, draw_timetable
from corpus.synthetic.simulation import Memory, Simulation
from corpus.synthetic.vocabulary import Vocabulary

CONFIG = SyntheticConfig(n_shoppers=40, n_searches=400, days=10)


@pytest.fixture
def memory(vocabulary: Vocabulary, catalogue: Catalogue) -> Memory:
    return Memory(3, vocabulary, catalogue)


def test_who_bought_nothing_has_no_affinity(memory: Memory):
    assert not memory.affinity(np.array([0, 2]), CONFIG).any()


def test_a_purchase_pulls_towards_brand_style_and_complements(
    memory: Memory, vocabulary: Vocabulary, catalogue: Catalogue
):
    item, choice = 17, CONFIG.choice
    memory.remember(np.array([1]), np.array([item]))
    pull = memory.affinity(np.array([1]), CONFIG)[0]
    same_brand = catalogue.codes[:, BRAND] == catalogue.codes[item, BRAND]
    same_style = catalogue.codes[:, STYLE] == catalogue.codes[item, STYLE]
    names = vocabulary.type_names
    partners = vocabulary.types[names[catalogue.types[item]]].goes_with
    complement = np.isin(catalogue.types, [names.index(name) for name in partners])
    want = choice.bought_brand * 0.5 * same_brand + choice.bought_style * 0.5 * same_style
    want = want + choice.complement * complement
    want[item] -= choice.bought_item
    np.testing.assert_allclose(pull, want, atol=1e-5)
    assert not memory.affinity(np.array([0]), CONFIG).any()


def test_a_second_purchase_of_a_brand_adds_half_as_much(memory: Memory, catalogue: Catalogue):
    first = 17
    kin = np.flatnonzero(
        (catalogue.codes[:, BRAND] == catalogue.codes[first, BRAND])
        & (catalogue.codes[:, STYLE] != catalogue.codes[first, STYLE])
    )
    probe, second = kin[-1], kin[0]
    config = CONFIG.model_copy(update={"choice": ChoiceConfig(complement=0.0, bought_style=0.0)})
    values = []
    for item in (first, second):
        memory.remember(np.array([0]), np.array([item]))
        values.append(memory.affinity(np.array([0]), config)[0, probe])
    assert values == pytest.approx([0.5 * config.choice.bought_brand, 0.75 * config.choice.bought_brand])


def test_rankings_hold_the_best_items_of_the_last_part_of_time(
    vocabulary: Vocabulary, catalogue: Catalogue, shoppers: Shoppers
):
    timetable = draw_timetable(CONFIG, np.random.default_rng(4))
    life = Simulation(CONFIG, vocabulary, catalogue, shoppers, timetable, np.random.default_rng(5)).run()
    late = np.flatnonzero(timetable.at_us >= 7.5 * 86_400e6)
    np.testing.assert_array_equal(life.judged, late)
    assert np.all(np.diff(life.oracle.probability, axis=1) <= 0)
    assert np.all(np.diff(life.oracle.gain, axis=1) <= 1e-12)
    assert life.oracle.probability.sum(axis=1).max() < 1
    assert catalogue.in_stock[life.oracle.items].all()
    assert catalogue.in_stock[life.anonymous.items].all()
    # no other order gathers more
    assert np.all(life.oracle.gain[:, :10].sum(axis=1) >= life.anonymous.gain[:, :10].sum(axis=1) - 1e-9)


def test_tastes_alone_tell_the_oracle_from_the_best_order_for_strangers(
    vocabulary: Vocabulary, catalogue: Catalogue, shoppers: Shoppers
):
    indifferent = Shoppers(
        brand=np.zeros_like(shoppers.brand),
        style=np.zeros_like(shoppers.style),
        level=np.zeros_like(shoppers.level),
        department=shoppers.department,
    )
    choice = ChoiceConfig(bought_brand=0, bought_style=0, complement=0, bought_item=0)
    config = CONFIG.model_copy(update={"choice": choice})
    timetable = draw_timetable(config, np.random.default_rng(4))
    life = Simulation(config, vocabulary, catalogue, indifferent, timetable, np.random.default_rng(5)).run()
    np.testing.assert_allclose(life.oracle.gain, life.anonymous.gain, rtol=1e-4, atol=1e-7)
