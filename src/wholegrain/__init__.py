"""Wholegrain: train, test and explain CLIP models that see the whole and the grain."""

__version__ = "0.1.0"
