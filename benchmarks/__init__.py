"""Measurements of quality and speed, beside the peers they are compared with."""
