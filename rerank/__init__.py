"""The second stage: the cross-encoder that reads the shopper's history."""
