"""The store's own data: items, events, histories, pairs, splits, judgments, and what everything shares."""
