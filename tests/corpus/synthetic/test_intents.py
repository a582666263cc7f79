import numpy as np
import pytest

from corpus.synthetic.catalogue import Catalogue
from corpus.synthetic.config import ChoiceConfig
from corpus.synthetic.intents import (
    Groups,
    Intents,
    build_groups,
    complements,
    draw_targets,
    draw_types,
    fresh_intents,
    refine,
)
from corpus.synthetic.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def groups(vocabulary: Vocabulary) -> Groups:
    return build_groups(vocabulary, ChoiceConfig())


@pytest.fixture(scope="module")
def intents(catalogue: Catalogue, groups: Groups) -> Intents:
    targets = np.random.default_rng(0).integers(0, len(catalogue), 4000)
    return fresh_intents(targets, catalogue, groups, np.random.default_rng(1))


def test_a_type_fits_itself_its_aisle_less_and_other_types_least(vocabulary: Vocabulary, groups: Groups):
    names = vocabulary.type_names
    sofa = groups.fit[names.index("sofa")]
    assert sofa[names.index("sofa")] == 0
    assert sofa[names.index("armchair")] == -4.5
    assert sofa[names.index("kettle")] == -9
    assert (sofa == 0).sum() == 1


def test_a_need_fits_all_its_types_and_no_noun_fits_everything(vocabulary: Vocabulary, groups: Groups):
    need = vocabulary.needs[0]
    fits = {vocabulary.type_names[code] for code in np.flatnonzero(groups.fit[groups.n_types] == 0)}
    assert fits == set(need.types)
    assert not groups.fit[groups.any_type].any()


def test_queries_state_only_what_is_true_of_their_target(catalogue: Catalogue, intents: Intents):
    codes = catalogue.codes[intents.target]
    says = intents.stated >= 0
    np.testing.assert_array_equal(intents.stated[says], codes[says])
    assert 0.4 < says.any(axis=1).mean() < 0.6


def test_queries_ask_for_what_their_target_is(catalogue: Catalogue, groups: Groups, intents: Intents):
    assert not groups.fit[intents.group, catalogue.types[intents.target]].any()
    assert set(np.unique(intents.group)) > {groups.any_type}
    assert 0.4 < (intents.group < groups.n_types).mean() < 0.97


def test_a_second_try_names_the_type_and_keeps_what_was_said(catalogue: Catalogue, intents: Intents):
    rows = np.arange(500)
    second = refine(intents, rows, catalogue, np.random.default_rng(3))
    said = intents.stated[rows] >= 0
    np.testing.assert_array_equal(second.stated[said], intents.stated[rows][said])
    np.testing.assert_array_equal(second.group, catalogue.types[intents.target[rows]])
    assert (second.stated >= 0).sum() > said.sum() + 300


def test_refining_leaves_the_first_search_as_it_was(catalogue: Catalogue, intents: Intents):
    before = intents.stated.copy()
    refine(intents, np.arange(500), catalogue, np.random.default_rng(3))
    np.testing.assert_array_equal(intents.stated, before)


def test_targets_are_of_the_wanted_type_and_mostly_the_most_appealing(vocabulary: Vocabulary, catalogue: Catalogue):
    n_types = len(vocabulary.types)
    types = np.arange(n_types).repeat(20)
    appeal = np.zeros((len(types), len(catalogue)), dtype=np.float32)
    favourite = np.array([np.flatnonzero(catalogue.types == code)[-1] for code in types])
    appeal[np.arange(len(types)), favourite] = 9.0
    targets = draw_targets(types, appeal, catalogue, np.random.default_rng(0))
    np.testing.assert_array_equal(catalogue.types[targets], types)
    assert (targets == favourite).mean() > 0.97


def test_types_are_drawn_in_proportion_to_their_weights():
    weights = np.log(np.tile(np.array([0.7, 0.2, 0.1], dtype=np.float32), (20_000, 1)))
    drawn = np.bincount(draw_types(weights, np.random.default_rng(0)), minlength=3) / 20_000
    assert drawn == pytest.approx([0.7, 0.2, 0.1], abs=0.015)


def test_complements_follow_the_vocabulary(vocabulary: Vocabulary):
    table, names = complements(vocabulary), vocabulary.type_names
    partners = {names[code] for code in np.flatnonzero(table[names.index("desk")])}
    assert partners == set(vocabulary.types["desk"].goes_with)
