"""The catalogue in words: titles and descriptions that name brand, style and price level as sellers would."""

from datetime import timedelta

import numpy as np
import polars as pl

from corpus.items import ITEM_SCHEMA
from corpus.synthetic.catalogue import BRAND, COLOUR, LEVEL, MATERIAL, OPTION, STYLE, Catalogue
from corpus.synthetic.config import SyntheticConfig
from corpus.synthetic.vocabulary import ProductType, Vocabulary, Word

# brand and style come first: what reads a shopper's history may see the beginning of each title only
_TITLES = (
    "{brand} {style} {noun}, {colour} {material}, {option}, {level}",
    "{brand} {level} {style} {noun} {option}, {material}, {colour}",
    "{brand} {style} {material} {noun} in {colour}, {option} ({level})",
)
_OMITTED_SHARE = 0.12  # of the titles lack the colour, and as many the option; the description has both
_DESCRIPTIONS = (
    "{A_style} {noun} from the {level} range by {brand}. {Made}{coloured}. {Option}: {value}.{pairs}",
    "{brand} makes this {noun} for people who like {a_style} look. {level} quality. {Made}{coloured}, {value}.{pairs}",
    "This {level} {noun} brings {style} design to everyday life. {Made}{coloured}. {Option}: {value}. {brand}.{pairs}",
)


def item_id(row: int) -> str:
    """Return the id of the item in a row."""
    return f"p{row + 1:05d}"


def item_frame(
    config: SyntheticConfig, vocabulary: Vocabulary, catalogue: Catalogue, rng: np.random.Generator
) -> pl.DataFrame:
    """Write the catalogue, in the columns of ``ITEM_SCHEMA``."""
    products = list(vocabulary.types.values())
    facets = _Facets(vocabulary)
    dice = rng.random((len(catalogue), 6))
    age_s = rng.integers(0, 300 * 86_400, len(catalogue)).tolist()
    rows = []
    for row, product in enumerate(products[code] for code in catalogue.types.tolist()):
        words = facets.written(product, catalogue.codes[row].tolist())
        words["noun"] = _pick(product.titles, dice[row, 0])
        title_words = dict(words)
        if dice[row, 1] < _OMITTED_SHARE:
            title_words["colour"] = ""
        if dice[row, 2] < _OMITTED_SHARE:
            title_words["option"] = ""
        # a brand mostly writes its titles in one way
        template = catalogue.codes[row, BRAND] if dice[row, 3] < 0.8 else int(dice[row, 4] * 97)
        attribute = vocabulary.materials[product.material].attribute
        named = (
            ("colour", words["colour"]),
            (attribute, words["material"]),
            ("style", words["style"]),
            (product.option, words["option"]),
            ("range", words["level"]),
        )
        rows.append(
            {
                "item_id": item_id(row),
                "title": _tidy(_TITLES[int(template) % len(_TITLES)].format(**title_words)),
                "description": _describe(vocabulary, product, words, _pick(_DESCRIPTIONS, dice[row, 5])),
                "brand": words["brand"],
                "category": [product.department, product.aisle],
                "price": float(catalogue.price[row]),
                "currency": "EUR",
                "in_stock": bool(catalogue.in_stock[row]),
                "attributes": [{"name": name, "values": [value]} for name, value in named if value],
                "image_uri": f"https://images.example.com/{item_id(row)}.jpg",
                "updated_at": config.start - timedelta(seconds=age_s[row]),
            }
        )
    return pl.DataFrame(rows, schema=ITEM_SCHEMA)


class _Facets:
    """Facet codes in the seller's words."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._shared: dict[int, list[Word]] = {
            BRAND: vocabulary.brand_words,
            STYLE: vocabulary.words("styles"),
            LEVEL: vocabulary.words("levels"),
            COLOUR: vocabulary.words("colours"),
        }

    def written(self, product: ProductType, codes: list[int]) -> dict[str, str]:
        """Return the seller's word by name of the facet; empty where the item has no such facet."""
        words = {
            "brand": self._shared[BRAND][codes[BRAND]].written,
            "style": self._shared[STYLE][codes[STYLE]].written,
            "level": self._shared[LEVEL][codes[LEVEL]].written,
            "material": self._vocabulary.material_words(product)[codes[MATERIAL]].written,
            "option": Word.parse(product.values[codes[OPTION]]).written,
        }
        words["colour"] = self._shared[COLOUR][codes[COLOUR]].written if codes[COLOUR] >= 0 else ""
        return words


def _describe(vocabulary: Vocabulary, product: ProductType, words: dict[str, str], template: str) -> str:
    scented = vocabulary.materials[product.material].attribute == "scent"
    partners = [vocabulary.types[name].titles[0].lower() for name in product.goes_with[:2]]
    return template.format(
        brand=words["brand"],
        noun=words["noun"].lower(),
        style=words["style"].lower(),
        a_style=_with_article(words["style"].lower()),
        A_style=_with_article(words["style"].lower()).capitalize(),
        level=words["level"],
        Made=f"Scent: {words['material'].lower()}" if scented else f"Made of {words['material'].lower()}",
        coloured=f" in {words['colour'].lower()}" if words["colour"] else "",
        Option=product.option.capitalize(),
        value=words["option"],
        pairs=f" Goes well with {' or '.join(map(_with_article, partners))}." if partners else "",
    )


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _pick(options: tuple[str, ...], dice: float) -> str:
    return options[int(dice * len(options))]


def _tidy(title: str) -> str:
    """Remove what an omitted word leaves behind."""
    parts = [" ".join(part.split()) for part in title.split(",")]
    joined = ", ".join(part for part in parts if part)
    return joined.replace(" in, ", ", ").replace(" in (", " (").replace(", (", " (").removesuffix(" in")
