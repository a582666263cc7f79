"""What a search is made of: selection, candidates, and what is done to a ranking once both models have spoken."""
