"""The vector index: its kinds, how one is chosen and tuned, and the embeddings in it."""
