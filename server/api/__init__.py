"""The public contract in Python: requests read and validated, messages and errors written."""
