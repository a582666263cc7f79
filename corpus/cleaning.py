"""Cleaning of text: HTML entities, Unicode forms, control characters, white space.

Every function here is idempotent: cleaning clean text changes nothing.
"""

import html
import re
import unicodedata

_NESTED_AMPERSAND = re.compile(r"&(?:amp;)+")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->", re.DOTALL)
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # fillers and the empty Braille cell: letters, invisible
_MISSING = frozenset({"", "\\n", "null", "none", "nan", "nat", "n/a", "<na>"})


def clean_text(text: str, *, lower: bool = False) -> str:
    """Return text without entities, control characters and surplus white space, in Unicode NFKC.

    The steps feed each other (a full-width ampersand becomes an entity's), so they are repeated until nothing
    changes.

    Args:
        text: Any text; lone surrogates, which broken UTF-8 leaves behind, count as control characters.
        lower: Lower the letters as well.
    """
    while True:
        cleaned = _clean_once(text, lower=lower)
        if cleaned == text:
            return cleaned
        text = cleaned


def strip_tags(text: str) -> str:
    """Return cleaned text without HTML tags and comments; a lone ``<`` stays."""
    while True:
        stripped = clean_text(_TAG.sub(" ", clean_text(text)))
        if stripped == text:
            return stripped
        text = stripped


def is_blank(text: str) -> bool:
    """Tell whether text has no visible character: only spaces, marks, controls or fillers."""
    return all(unicodedata.category(c)[0] in "ZM" or _is_control(c) or c in _BLANK_LETTERS for c in text)


def is_missing(text: str | None) -> bool:
    r"""Tell whether a cell stands for a missing value: empty, ``NULL``, ``NaN``, ``None``, ``\N`` and the like."""
    return text is None or text.strip().lower() in _MISSING


def _clean_once(text: str, *, lower: bool) -> str:
    if "&" in text:
        text = html.unescape(_NESTED_AMPERSAND.sub("&", text))
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if not text.isprintable():
        text = "".join(_visible(c) for c in text)
    return " ".join((text.lower() if lower else text).split())


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width and direction marks join what they stand in
        return ""
    return " " if category in ("Cc", "Cs", "Zl", "Zp", "Zs") else character


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs")
