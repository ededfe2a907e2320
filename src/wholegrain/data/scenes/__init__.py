"""Scenes: small pictures with known truth, drawn on the spot.

``world`` says what can be in a picture and draws facts at random; ``draw`` makes the pixels; ``captions`` says true things of a scene;
``twins`` makes two scenes that differ in one fact, negatives and hard positives; ``build`` writes a data set in the ordinary record format.
Everything is a function of (world, split, index).
"""
