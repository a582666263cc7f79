"""Rankings that are kept: for further pages, and for searches that repeat."""
