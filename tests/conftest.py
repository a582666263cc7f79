"""Shared fixtures: tiny real models, a tiny catalogue. Heavy imports stay inside the fixtures."""
