"""How much oftener than usual something is chosen: what tastes and the words of queries are compared by.

Source: Cestnik 1990, "Estimating probabilities: a crucial task in machine learning" (the m-estimate).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

SMOOTHING = 2.0  # S, choices of the usual kind that are added

_Numbers = npt.NDArray[Any]  # float32 or float64, counts also whole


def lift(counted: _Numbers, total: _Numbers, usual: _Numbers) -> npt.NDArray[np.float64]:
    """Return log( (c + S p) / ((n + S) p) ), element by element.

    Args:
        counted: c, choices that have the trait.
        total: n, choices whose trait of this kind is known.
        usual: p, the trait's share of all choices; above 0.
    """
    lifts: npt.NDArray[np.float64] = np.log((counted + SMOOTHING * usual) / ((total + SMOOTHING) * usual))
    return lifts
