from collections import Counter

from corpus.synthetic.vocabulary import Vocabulary, Word


def test_a_dozen_departments_have_four_to_eight_product_types(vocabulary: Vocabulary):
    sizes = Counter(product.department for product in vocabulary.types.values())
    assert len(sizes) == 12
    assert all(4 <= size <= 8 for size in sizes.values())


def test_every_name_that_is_referred_to_exists(vocabulary: Vocabulary):
    for name, product in vocabulary.types.items():
        assert set(product.goes_with) <= vocabulary.types.keys() - {name}
        assert product.material in vocabulary.materials
    for need in vocabulary.needs:
        assert set(need.types) <= vocabulary.types.keys()


def test_every_price_level_has_as_many_brands_as_any_other(vocabulary: Vocabulary):
    assert set(Counter(vocabulary.brands.values())) == {0, 1, 2, 3}
    assert min(Counter(vocabulary.brands.values()).values()) >= 3


def test_shoppers_mostly_have_another_word_for_a_product_than_the_title(vocabulary: Vocabulary):
    shared = sum(
        product.words[0] in {title.lower() for title in product.titles} for product in vocabulary.types.values()
    )
    assert shared < 0.5 * len(vocabulary.types)


def test_a_word_without_alternatives_is_typed_in_lower_case():
    assert Word.parse("Bamboo") == Word("Bamboo", ("bamboo",))
    assert Word.parse("Crimson|red|dark red") == Word("Crimson", ("red", "dark red"))
