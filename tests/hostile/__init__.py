"""Hostile model files: every row ST, GG, CF and FS of the catalogue as files, with the error each must give.

`python -m hostile` in tests/ writes and loads them all and prints how many, how fast, and what differs.
"""
