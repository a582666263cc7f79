"""Queries as shoppers type them: their own words, in their order, with their typos."""

import numpy as np

from corpus.synthetic.catalogue import BRAND, COLOUR, LEVEL, MATERIAL, OPTION, STYLE, Catalogue
from corpus.synthetic.intents import Groups, Intents
from corpus.synthetic.vocabulary import Vocabulary, Word

_PLURAL_SHARE = 0.15  # of the nouns change their number
_MISSING_SHARE = 0.06  # of the queries of three words and more lack one
_JOINED_SHARE = 0.02  # of the queries of two words and more lack a space
_CAPITAL_SHARE = 0.06
_COMMONER = 0.65  # chance that a shopper settles for the next most common word: 65 %, 23 %, …

_IRREGULAR = {"shelf": "shelves", "book shelf": "book shelves", "bookshelf": "bookshelves", "knife": "knives"}
_KEYBOARD = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk",
    "k": "jl", "l": "ko", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "w", "r": "et", "s": "ad", "t": "ry",
    "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip


def query_texts(
    vocabulary: Vocabulary,
    catalogue: Catalogue,
    groups: Groups,
    intents: Intents,
    *,
    typo_share: float,
    rng: np.random.Generator,
) -> list[str]:
    """Write one query per intent.

    Args:
        vocabulary: The store's words.
        catalogue: The store's items.
        groups: What the nouns stand for.
        intents: What the queries say.
        typo_share: Share of the queries with a typing error.
        rng: Source of the shoppers' whims.
    """
    writer = _Writer(vocabulary, catalogue, groups)
    n = len(intents.group)
    dice = rng.random((n, 16))
    misses, joins, slips, shouts = (
        dice[:, 0] < _MISSING_SHARE,
        dice[:, 1] < _JOINED_SHARE,
        dice[:, 2] < typo_share,
        dice[:, 3] < _CAPITAL_SHARE,
    )
    texts = []
    for row in range(n):
        words = writer.words(int(intents.group[row]), int(intents.target[row]), intents.stated[row], dice[row, 4:13])
        if misses[row] and len(words) > 2:
            del words[int(dice[row, 13] * len(words))]
        if joins[row] and len(words) > 1:
            place = int(dice[row, 13] * (len(words) - 1))
            words[place : place + 2] = [words[place] + words[place + 1]]
        if slips[row]:
            words = _slip(words, *dice[row, 13:16])
        text = " ".join(words)
        texts.append(text.capitalize() if shouts[row] else text)
    return texts


class _Writer:
    """Intents in the shoppers' words."""

    def __init__(self, vocabulary: Vocabulary, catalogue: Catalogue, groups: Groups) -> None:
        self._vocabulary, self._catalogue, self._groups = vocabulary, catalogue, groups
        self._products = list(vocabulary.types.values())
        self._shared: dict[int, list[Word]] = {
            BRAND: vocabulary.brand_words,
            STYLE: vocabulary.words("styles"),
            LEVEL: vocabulary.words("levels"),
            COLOUR: vocabulary.words("colours"),
        }
        self._materials = [vocabulary.material_words(product) for product in self._products]
        self._options = [[Word.parse(text) for text in product.values] for product in self._products]

    def words(self, group: int, target: int, stated: np.ndarray, dice: np.ndarray) -> list[str]:
        """Return the words of one query; ``dice`` are nine numbers in [0, 1)."""
        code = int(self._catalogue.types[target])
        facets = {
            **self._shared,
            MATERIAL: self._materials[code],
            OPTION: self._options[code],
        }
        typed = {
            facet: _common_first(facets[facet][int(stated[facet])].typed, dice[facet])
            for facet in (LEVEL, STYLE, BRAND, COLOUR, MATERIAL, OPTION)
            if stated[facet] >= 0
        }
        before = [typed[facet] for facet in (LEVEL, STYLE, COLOUR, MATERIAL) if facet in typed]
        after: list[str] = []
        if BRAND in typed:
            (before if dice[6] < 0.7 else after).insert(0, typed[BRAND])
        if OPTION in typed:
            late = dice[7] < 0.4 or typed[OPTION].startswith(("with ", "for ", "set "))
            (after if late else before).append(typed[OPTION])
        return " ".join([*before, self._noun(group, code, dice[8]), *after]).split()

    def _noun(self, group: int, code: int, dice: float) -> str:
        if group == self._groups.any_type:
            return ""
        if group >= self._groups.n_types:
            return _common_first(self._vocabulary.needs[group - self._groups.n_types].words, dice)
        # the same die decides on the number of the noun: its low digits are as good as new
        noun = _common_first(self._products[code].words, dice)
        return change_number(noun) if (dice * 1000) % 1 < _PLURAL_SHARE else noun


def change_number(noun: str) -> str:
    """Turn a singular into a plural and a plural into a singular, by rules of thumb."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("ss", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("s"):
        return noun.removesuffix("s")
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _common_first(words: tuple[str, ...], dice: float) -> str:
    """Choose a word: the first with probability ``_COMMONER``, of the rest the next with the same, and so on."""
    for word in words[:-1]:
        if dice < _COMMONER:
            return word
        dice = (dice - _COMMONER) / (1 - _COMMONER)
    return words[-1]


def _slip(words: list[str], which: float, where: float, how: float) -> list[str]:
    """Mistype one letter of a longer word: leave it out, double it, swap it with the next, or hit its neighbour."""
    long = [number for number, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not long:
        return words
    number = long[int(which * len(long))]
    word = words[number]
    place = 1 + int(where * (len(word) - 2))  # people get the first letter right
    head, letter, tail = word[:place], word[place], word[place + 1 :]
    kind = int(how * 4)
    if kind == 0:
        wrong = head + tail
    elif kind == 1:
        wrong = head + letter + letter + tail
    elif kind == 2 and tail[0] != letter:
        wrong = head + tail[0] + letter + tail[1:]
    else:
        neighbours = _KEYBOARD[letter]
        wrong = head + neighbours[int(how * 4 % 1 * len(neighbours))] + tail
    return [*words[:number], wrong, *words[number + 1 :]]
