"""The lexical index: BM25 over words, identifiers, spelling."""
