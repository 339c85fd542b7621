"""Attacks: the suite runs the quick form of each; a person runs the long form by hand."""
