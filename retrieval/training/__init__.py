"""Tuning the two towers: pairs, losses, mined negatives, the trainer."""
