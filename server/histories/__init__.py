"""What shoppers did: in SQLite or Redis, under pseudonyms."""
