"""Conditions on items, and what is counted under them."""
