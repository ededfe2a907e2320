"""Hostile and damaged input, at random and repeatable: what of it is served, refused in one sentence, or badly met.

``PYTHONPATH=tools python -m fuzz --cases 20000`` tries every surface and prints the counts; a case is (surface, number), and
``--surface tars --only 4711`` tries one again and shows its traceback.
"""
