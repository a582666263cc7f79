"""Query text: one normalisation for training data and for the server alike."""

from corpus.cleaning import clean_text, is_blank
from corpus.errors import EmptyQuery, InputError

MAX_QUERY_CHARACTERS = 512

# a query that shrinks below the limit only by unescaping is no query: refuse it before doing the work
_MAX_RAW_CHARACTERS = 8 * MAX_QUERY_CHARACTERS


def normalize_query(text: str) -> str:
    """Write a query in the one form that both towers and both indexes are given.

    HTML entities are resolved, the text is brought to Unicode NFKC, control characters become spaces, invisible
    format characters vanish, white space is collapsed and letters are lowered. Applying it twice changes nothing.

    Args:
        text: The query as the shopper typed it.
    Returns:
        1 to ``MAX_QUERY_CHARACTERS`` characters, at least one of them visible.
    Raises:
        EmptyQuery: If nothing visible is left.
        InputError: If the query is longer than ``MAX_QUERY_CHARACTERS``.
    """
    query = clean_text(text, lower=True) if len(text) <= _MAX_RAW_CHARACTERS else text
    if len(query) > MAX_QUERY_CHARACTERS:
        raise InputError(
            f"expected a query of at most {MAX_QUERY_CHARACTERS} characters, got {len(query):,}; shorten it",
            field="query",
        )
    if is_blank(query):
        raise EmptyQuery("expected a query with at least one visible character, got none; type a word", field="query")
    return query
