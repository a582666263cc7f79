import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import OSA

from retrieval.lexical.spelling import Speller, Word

COUNTS = {
    "skyrim": 5,
    "madden": 9,
    "made": 30,
    "nfl": 8,
    "assassin": 4,
    "assassins": 6,
    "playstation": 50,
    "3": 60,
    "xbox": 40,
    "box": 7,
    "x": 2,
    "call": 9,
    "of": 90,
    "duty": 9,
    "headphones": 20,
    "32": 4,
    "2012": 3,
    "20": 5,
    "12": 5,
    "mat": 3,
    "t": 3,
    "men": 2,
}
TOGETHER = {
    ("playstation", "3"): 12,
    ("call", "of", "duty"): 9,
    ("x", "box"): 1,
    ("madden", "nfl"): 5,
    ("x", "32"): 1,
    ("32", "x", "32"): 1,
    ("20", "12"): 2,
    ("x", "men"): 1,
}


@pytest.fixture(scope="module")
def speller():
    return Speller(COUNTS, lambda word: word == "shoes", lambda words: TOGETHER.get(tuple(words), 0))


def words_of(query, fixed=()):
    words, end = [], 0
    for text in query.replace("-", " ").replace(".", " ").split():
        start = query.index(text, end)
        end = start + len(text)
        words.append(Word(text=text, start=start, end=end, fixed=text in fixed))
    return words


def mended(speller, query, fixed=()):
    words = words_of(query, fixed)
    text, end = "", 0
    for change in speller.changes(query, words):
        text += query[end : change.start] + change.text
        end = change.end
    assert bool(text) <= (not speller.is_clean(words))  # what is clean is never changed
    return text + query[end:]


@pytest.mark.parametrize(
    ("query", "want"),
    [
        ("skyrm", "skyrim"),  # a letter too few
        ("skyrimm", "skyrim"),  # too many
        ("skyrin", "skyrim"),  # wrong
        ("skyirm", "skyrim"),  # swapped: one edit
        ("skrm", "skrm"),  # two edits in four letters
        ("asassin", "assassin"),
        ("asasin", "asasin"),  # two edits in six letters
        ("assasins", "assassins"),  # eight letters, and the closest wins over the second closest
        ("hedphnes", "headphones"),  # two edits in eight letters
        ("hedphne", "hedphne"),
        ("playstatoin", "playstation"),
        ("nlf", "nlf"),  # three letters
        ("the skyrm box", "the skyrim box"),
    ],
)
def test_letters_are_mended_within_the_distance_for_their_number(speller, query, want):
    assert mended(speller, query) == want


def test_of_equally_close_words_the_more_frequent_wins_unless_the_query_knows_better(speller):
    assert mended(speller, "maden") == "made"
    assert mended(speller, "maden nfl") == "madden nfl"
    assert mended(speller, "nfl maden") == "nfl madden"
    assert mended(speller, "maden zzzz nfl") == "made zzzz nfl"  # only the words beside it say something


@pytest.mark.parametrize(
    ("query", "want"),
    [
        ("playstation3", "playstation 3"),
        ("callofduty", "call of duty"),
        ("32x32", "32 x 32"),
        ("xmen", "men"),  # a single letter is no part of a word; "men" is one edit away
        ("boxbox", "boxbox"),  # no item has both
        ("madden32", "madden32"),
        ("2013", "2013"),  # a number is no mistake
        ("2012x", "2012x"),
        ("201220", "201220"),
    ],
)
def test_words_run_together_are_parted_if_an_item_has_all_parts(speller, query, want):
    assert mended(speller, query) == want


@pytest.mark.parametrize(
    ("query", "want"),
    [
        ("x box", "xbox"),
        ("x-box 3", "xbox 3"),
        ("x.box", "x.box"),  # only a space or a hyphen joins
        ("head phones", "headphones"),  # neither half is known
        ("20 12", "20 12"),  # numbers stay apart
        ("call of", "call of"),
    ],
)
def test_split_words_become_one_if_more_items_write_it_so(speller, query, want):
    assert mended(speller, query) == want


def test_words_that_stand_together_more_often_than_joined_stay():
    together = {("hot", "tub"): 2}
    for n_joined, want in ((2, "hot tub"), (3, "hottub")):
        counts = {"hot": 5, "tub": 5, "hottub": n_joined}
        speller = Speller(counts, lambda word: False, lambda words: together.get(tuple(words), 0))
        assert mended(speller, "hot tub") == want


def test_known_words_are_never_changed(speller):
    # by themselves, by their stem, as part of an identifier
    for query in ("made", "mat", "shoes"):
        assert speller.is_clean(words_of(query))
        assert mended(speller, query) == query
    assert mended(speller, "skyrm x box", fixed=("skyrm", "x")) == "skyrm x box"


def test_a_text_of_unknown_words_stays_as_it_is(speller):
    assert mended(speller, " ".join(["skyrm"] * 8)) == " ".join(["skyrim"] * 8)
    assert mended(speller, " ".join(["skyrm"] * 9)) == " ".join(["skyrm"] * 9)


def test_at_most_four_parts():
    counts = {"ab": 1}
    speller = Speller(counts, lambda word: False, lambda words: 1)
    assert mended(speller, "ab" * 4) == "ab ab ab ab"
    assert mended(speller, "ab" * 5) == "ab" * 5


LETTERS = st.text(alphabet="abcdefgхцé", min_size=4, max_size=10)


@given(catalogue=st.lists(LETTERS, min_size=1, max_size=30, unique=True), word=LETTERS)
def test_the_nearest_word_is_the_one_of_a_full_comparison(catalogue, word):
    speller = Speller(dict.fromkeys(catalogue, 1), lambda word: False, lambda words: 0)
    most = 2 if len(word) >= 8 else 1
    distance, closest = min((OSA.distance(word, candidate), candidate) for candidate in catalogue)
    assert mended(speller, word) == (closest if distance <= most else word)
