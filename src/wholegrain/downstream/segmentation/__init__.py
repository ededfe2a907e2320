"""Segmentation: a class for every pixel, by heads that are trained on an image tower's patches."""
