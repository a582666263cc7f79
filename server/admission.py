"""How many calls may wait at once: a full house says so at once, instead of letting everybody wait in vain."""

from collections.abc import Iterator
from contextlib import contextmanager

from corpus.errors import Overloaded


class Admission:
    """A bounded number of calls in the house. For one thread only: the event loop's."""

    def __init__(self, limit: int) -> None:
        """Open an empty house.

        Args:
            limit: Calls admitted at once, waiting and being answered.
        """
        self.limit = limit
        self._n_inside = 0
        self._n_refused = 0

    @property
    def n_inside(self) -> int:
        """Calls admitted and not yet answered."""
        return self._n_inside

    @property
    def n_refused(self) -> int:
        """Calls that found the house full, since it was opened."""
        return self._n_refused

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place while a call is answered.

        Raises:
            Overloaded: If all places are taken.
        """
        if self._n_inside >= self.limit:
            self._n_refused += 1
            raise Overloaded(f"all {self.limit} places are taken; call again a little later")
        self._n_inside += 1
        try:
            yield
        finally:
            self._n_inside -= 1
