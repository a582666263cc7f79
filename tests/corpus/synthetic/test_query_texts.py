import numpy as np
import pytest

from corpus.queries import normalize_query
from corpus.synthetic.catalogue import BRAND, COLOUR, Catalogue
from corpus.synthetic.config import ChoiceConfig
from corpus.synthetic.intents import Groups, Intents, build_groups, fresh_intents
from corpus.synthetic.query_texts import change_number, query_texts
from corpus.synthetic.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def groups(vocabulary: Vocabulary) -> Groups:
    return build_groups(vocabulary, ChoiceConfig())


@pytest.fixture(scope="module")
def write(vocabulary: Vocabulary, catalogue: Catalogue, groups: Groups):
    def write(intents: Intents, *, typo_share: float = 0.0, seed: int = 0) -> list[str]:
        rng = np.random.default_rng(seed)
        return query_texts(vocabulary, catalogue, groups, intents, typo_share=typo_share, rng=rng)

    return write


def sofa_intents(vocabulary: Vocabulary, catalogue: Catalogue, n: int) -> Intents:
    code = vocabulary.type_names.index("sofa")
    target = np.full(n, np.flatnonzero(catalogue.types == code)[0])
    return Intents(target=target, group=np.full(n, code), stated=np.full((n, 6), -1))


def test_shoppers_use_all_the_words_for_a_type_the_first_most(vocabulary, catalogue, write):
    texts = [text.lower() for text in write(sofa_intents(vocabulary, catalogue, 3000))]
    share = {word: np.mean([text.rstrip("s") == word for text in texts]) for word in ("sofa", "couch", "settee")}
    assert share["sofa"] == pytest.approx(0.65, abs=0.04)
    assert share["sofa"] > share["couch"] > share["settee"] > 0.05


def test_some_nouns_are_plural(vocabulary, catalogue, write):
    texts = write(sofa_intents(vocabulary, catalogue, 3000))
    assert np.mean([text.endswith("s") for text in texts]) == pytest.approx(0.15, abs=0.06)


def test_a_stated_colour_and_brand_are_typed_in_the_words_of_shoppers(vocabulary, catalogue, write):
    intents = sofa_intents(vocabulary, catalogue, 400)
    intents.stated[:, COLOUR] = 0
    intents.stated[:, BRAND] = 0
    texts = [text.lower().replace(" ", "") for text in write(intents)]
    assert np.mean(["black" in text for text in texts]) > 0.9
    assert np.mean(["brindle" in text for text in texts]) > 0.9
    assert 0.4 < np.mean(["brindlemoor" in text for text in texts]) < 0.8
    assert not any("midnight" in text for text in texts)


def test_typos_come_as_often_as_the_configuration_says(catalogue, groups, write):
    targets = np.random.default_rng(0).integers(0, len(catalogue), 4000)
    intents = fresh_intents(targets, catalogue, groups, np.random.default_rng(1))
    clean = write(intents)
    for share in (0.0, 0.1, 1.0):
        # queries of short words only stay as they are, so a little fewer than asked for
        changed = np.mean([a != b for a, b in zip(clean, write(intents, typo_share=share), strict=True)])
        assert changed == pytest.approx(share, rel=0.15)


def test_a_typo_changes_one_letter_or_two_and_never_the_first(vocabulary, catalogue, write):
    intents = sofa_intents(vocabulary, catalogue, 500)
    for clean, mistyped in zip(write(intents), write(intents, typo_share=1.0), strict=True):
        assert mistyped[0] == clean[0]
        assert abs(len(mistyped) - len(clean)) <= 1


def test_every_query_survives_normalisation(catalogue, groups, write):
    targets = np.arange(len(catalogue))
    intents = fresh_intents(targets, catalogue, groups, np.random.default_rng(5))
    for text in write(intents, typo_share=0.3):
        assert normalize_query(text) == text.lower()


@pytest.mark.parametrize(
    ("noun", "other"),
    [
        ("sofa", "sofas"),
        ("headphones", "headphone"),
        ("dress", "dresses"),
        ("couch", "couches"),
        ("hair brush", "hair brushes"),
        ("bookshelf", "bookshelves"),
        ("buggy", "buggies"),
        ("toy", "toys"),
    ],
)
def test_number_changes_by_the_rules_of_english(noun: str, other: str):
    assert change_number(noun) == other
