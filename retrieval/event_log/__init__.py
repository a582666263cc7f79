"""What shoppers' behaviour says: about queries, items, words, and items chosen together."""
