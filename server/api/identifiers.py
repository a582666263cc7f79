"""Ids, as the API takes them."""

from collections.abc import Callable

MAX_ID_CHARACTERS = 128


def check_identifier(value: str, field: str, add_fault: Callable[[str, str], None]) -> bool:
    """Tell whether a text is an id; the fault that is added does not repeat it.

    Args:
        value: As received.
        field: Where it stands.
        add_fault: Told if it is none.
    """
    if 1 <= len(value) <= MAX_ID_CHARACTERS and value.isprintable() and not value.isspace():
        return True
    what = "unprintable ones" if 1 <= len(value) <= MAX_ID_CHARACTERS else f"{len(value):,}"
    add_fault(field, f"expected 1 to {MAX_ID_CHARACTERS} printable characters, got {what}")
    return False
