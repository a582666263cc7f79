"""The words of the synthetic store: product types, brands, styles, and how shoppers name them."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from corpus.config import Section


@dataclass(frozen=True, slots=True)
class Word:
    """One thing with two names: the seller's in the catalogue and the shoppers' in the query box."""

    written: str  # as the seller writes it in titles and attributes
    typed: tuple[str, ...]  # as shoppers type it, the most common first

    @classmethod
    def parse(cls, text: str) -> "Word":
        """Read ``"Written|typed|typed"``; with nothing typed, shoppers type the seller's word in lower case."""
        written, *typed = text.split("|")
        return cls(written, tuple(typed) or (written.lower(),))


class ProductType(Section):
    """One kind of product."""

    department: str
    aisle: str
    titles: tuple[str, ...]  # nouns that sellers use
    words: tuple[str, ...]  # nouns that shoppers use, the most common first
    price: float  # EUR, of a mid-range item
    colour: bool = True  # whether items of this type come in colours
    material: str  # group of materials
    option: str  # name of the type's own attribute
    values: tuple[str, ...]  # of that attribute
    goes_with: tuple[str, ...]  # complementary types


class Need(Section):
    """A broad query that items of several types answer."""

    words: tuple[str, ...]
    types: tuple[str, ...]


class Materials(Section):
    """A group of materials, or of scents."""

    attribute: str
    values: tuple[str, ...]


class Values(Section):
    """A plain list of words."""

    values: tuple[str, ...]


class Vocabulary(Section):
    """``vocabulary.toml`` as it stands in the package."""

    brands: dict[str, int]  # name -> price level 0-3
    styles: Values
    levels: Values
    colours: Values
    materials: dict[str, Materials]
    types: dict[str, ProductType]
    needs: tuple[Need, ...]

    @property
    def type_names(self) -> list[str]:
        """Keys of the product types; a type's position here is its code."""
        return list(self.types)

    @property
    def brand_words(self) -> list[Word]:
        """Brands by code."""
        return [Word.parse(name) for name in self.brands]

    def words(self, name: str) -> list[Word]:
        """Return the words of ``styles``, ``levels`` or ``colours`` by code."""
        values: Values = getattr(self, name)
        return [Word.parse(text) for text in values.values]

    def material_words(self, product: ProductType) -> list[Word]:
        """Return the materials (or scents) that a type is made in, by code."""
        return [Word.parse(text) for text in self.materials[product.material].values]


@cache
def load_vocabulary() -> Vocabulary:
    """Read the packaged vocabulary, once."""
    text = files("corpus.synthetic").joinpath("vocabulary.toml").read_text(encoding="utf-8")
    return Vocabulary.model_validate(tomllib.loads(text))
