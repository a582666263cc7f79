"""Serving processes: one alone, or several under a supervisor on one port."""
