"""Attacks: each has a quick form, which the suite runs, and a long one, which runs by hand."""
