"""The published comparison: per-item results of competitions, kept in the repository, and the pages that are made of them.

``PYTHONPATH=tools python -m results collect NAME FOLDERS`` keeps a competition (``wholegrain compete --budgets``) as
``docs/results/data/NAME.parquet`` and ``.json``; ``… results render`` (``make results``) writes the pages, figures and the README's table from
what is kept, and nothing else. ``PYTHONPATH=src:tools python -m results photographs OUT --data FOLDER`` makes the one on photographs: it prepares,
enriches, trains and tests, and goes on where it was interrupted.
"""
