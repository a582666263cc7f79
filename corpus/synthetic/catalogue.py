"""The synthetic store's catalogue as numbers: who makes which item, in which style, at which price level."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.synthetic.vocabulary import ProductType, Vocabulary

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# columns of the code matrices of items and of queries; material and option codes mean something within a type only
FACETS = ("brand", "style", "level", "colour", "material", "option")
BRAND, STYLE, LEVEL, COLOUR, MATERIAL, OPTION = range(len(FACETS))

_LEVEL_PRICE = np.array([0.55, 1.0, 1.7, 3.0])  # price of a level as a multiple of the type's
_BRANDS_PER_LEVEL = (3, 2, 3, 2)  # in each department, so that everyone finds something


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Items by row; all arrays have length n_items unless said otherwise."""

    types: IntArray  # code of the product type, ascending
    codes: IntArray  # (n_items, 6) in the order of FACETS; -1 where the type has no such facet
    popularity: FloatArray  # appeal to everybody, mean 0, standard deviation 1
    price: npt.NDArray[np.float64]  # EUR
    in_stock: BoolArray
    departments: tuple[str, ...]  # names by code
    department_of_type: IntArray  # (n_types,)
    sells: BoolArray  # (n_departments, n_brands): which brands a department carries

    def __len__(self) -> int:
        return len(self.types)


def draw_catalogue(vocabulary: Vocabulary, n_items: int, rng: np.random.Generator) -> Catalogue:
    """Draw a catalogue.

    A brand has one price level, two signature styles and sells in about five departments. Items deviate: one in five
    is a level above or below its brand, a third is in a style that is not a signature.
    """
    products = list(vocabulary.types.values())
    departments = tuple(dict.fromkeys(product.department for product in products))
    department_of_type = np.array([departments.index(product.department) for product in products])
    brand_level = np.array(list(vocabulary.brands.values()))
    sells = _assortment(len(departments), brand_level, rng)

    weights = rng.uniform(0.6, 1.4, len(products))
    spare = rng.choice(len(products), n_items - len(products), p=weights / weights.sum())
    types = np.sort(np.concatenate([np.arange(len(products)), spare]))

    share = rng.dirichlet(np.full(len(brand_level), 4.0), len(departments)) * sells
    brand = _draw_rows(share[department_of_type[types]], rng)
    signature = np.full((len(brand_level), len(vocabulary.styles.values)), 0.05)
    for row in signature:
        row[rng.choice(len(row), 2, replace=False)] = 0.35
    style = _draw_rows(signature[brand], rng)
    step = rng.choice([-1, 0, 1], n_items, p=[0.1, 0.8, 0.1])
    level = np.clip(brand_level[brand] + step, 0, len(_LEVEL_PRICE) - 1)
    codes = np.stack([brand, style, level, *_facets_of_types(vocabulary, products, types, rng)], axis=1)

    appeal = 0.45 * rng.standard_normal(len(brand_level))[brand] + 0.9 * rng.standard_normal(n_items)
    base = np.array([product.price for product in products])[types]
    price = base * _LEVEL_PRICE[level] * rng.lognormal(0.0, 0.12, n_items)
    return Catalogue(
        types=types,
        codes=codes,
        popularity=((appeal - appeal.mean()) / appeal.std()).astype(np.float32),
        price=np.maximum(np.round(price), 2.0) - 0.01,
        in_stock=rng.random(n_items) >= 0.03,
        departments=departments,
        department_of_type=department_of_type,
        sells=sells,
    )


def _assortment(n_departments: int, brand_level: IntArray, rng: np.random.Generator) -> BoolArray:
    sells = np.zeros((n_departments, len(brand_level)), dtype=bool)
    for department in range(n_departments):
        for level, n_brands in enumerate(_BRANDS_PER_LEVEL):
            known = np.flatnonzero(brand_level == level)
            sells[department, rng.choice(known, min(n_brands, len(known)), replace=False)] = True
    return sells


def _facets_of_types(
    vocabulary: Vocabulary, products: list[ProductType], types: IntArray, rng: np.random.Generator
) -> list[IntArray]:
    """Return colour, material and option codes, each (n_items,); the first values of a list are the most common."""
    coloured = np.array([product.colour for product in products])
    colour = _draw_head_heavy(np.full(len(types), len(vocabulary.colours.values)), rng)
    n_materials = np.array([len(vocabulary.material_words(product)) for product in products])
    n_options = np.array([len(product.values) for product in products])
    return [
        np.where(coloured[types], colour, -1),
        _draw_head_heavy(n_materials[types], rng),
        _draw_head_heavy(n_options[types], rng),
    ]


def _draw_head_heavy(sizes: IntArray, rng: np.random.Generator) -> IntArray:
    # u ** 1.4 piles up near 0: the first of ten values gets 19 %, the last 7 %
    return (sizes * rng.random(len(sizes)) ** 1.4).astype(np.int64)


def _draw_rows(weights: npt.NDArray[np.float64], rng: np.random.Generator) -> IntArray:
    """Draw one column per row, in proportion to the row's weights."""
    cumulative = np.cumsum(weights, axis=1)
    threshold = rng.random(len(weights)) * cumulative[:, -1]
    return np.asarray(np.argmax(cumulative > threshold[:, None], axis=1))
