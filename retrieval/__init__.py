"""The first stage: two towers, the vector index, the lexical index, and their fusion."""
