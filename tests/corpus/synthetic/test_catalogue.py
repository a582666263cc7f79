import numpy as np
import pytest

from corpus.synthetic.catalogue import BRAND, COLOUR, LEVEL, STYLE, Catalogue, draw_catalogue
from corpus.synthetic.vocabulary import Vocabulary


def test_every_product_type_has_items_sorted_by_type(vocabulary: Vocabulary, catalogue: Catalogue):
    assert np.all(np.diff(catalogue.types) >= 0)
    assert set(catalogue.types.tolist()) == set(range(len(vocabulary.types)))


def test_items_carry_only_brands_that_their_department_sells(catalogue: Catalogue):
    departments = catalogue.department_of_type[catalogue.types]
    assert catalogue.sells[departments, catalogue.codes[:, BRAND]].all()


def test_each_department_sells_brands_of_every_price_level(vocabulary: Vocabulary, catalogue: Catalogue):
    levels = np.array(list(vocabulary.brands.values()))
    for sells in catalogue.sells:
        assert set(levels[sells]) == {0, 1, 2, 3}


def test_an_item_is_at_most_one_level_off_its_brand_and_mostly_on_it(vocabulary: Vocabulary, catalogue: Catalogue):
    off = np.abs(catalogue.codes[:, LEVEL] - np.array(list(vocabulary.brands.values()))[catalogue.codes[:, BRAND]])
    assert off.max() == 1
    assert 0.05 < off.mean() < 0.25


def test_a_brand_makes_most_items_in_its_two_signature_styles(vocabulary: Vocabulary):
    catalogue = draw_catalogue(vocabulary, 3000, np.random.default_rng(3))
    counts = np.zeros((len(vocabulary.brands), len(vocabulary.styles.values)))
    np.add.at(counts, (catalogue.codes[:, BRAND], catalogue.codes[:, STYLE]), 1)
    counts = counts[counts.sum(axis=1) > 30]
    assert np.sort(counts, axis=1)[:, -2:].sum() / counts.sum() == pytest.approx(0.7, abs=0.05)


def test_higher_price_levels_cost_more(vocabulary: Vocabulary, catalogue: Catalogue):
    base = np.array([product.price for product in vocabulary.types.values()])[catalogue.types]
    ratio = [np.median((catalogue.price / base)[catalogue.codes[:, LEVEL] == level]) for level in range(4)]
    assert ratio == pytest.approx([0.55, 1.0, 1.7, 3.0], rel=0.1)


def test_colourless_types_have_no_colour(vocabulary: Vocabulary, catalogue: Catalogue):
    coloured = np.array([product.colour for product in vocabulary.types.values()])[catalogue.types]
    np.testing.assert_array_equal(catalogue.codes[:, COLOUR] >= 0, coloured)


def test_popularity_is_standardised(catalogue: Catalogue):
    assert catalogue.popularity.mean() == pytest.approx(0, abs=1e-5)
    assert catalogue.popularity.std() == pytest.approx(1, abs=1e-5)
