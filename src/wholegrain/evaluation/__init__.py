"""Evaluation: one file per task family, every figure with its interval, count, chance level and shuffled-images control.

The path through this room::

    encode.py        images and texts -> features (each distinct text once)
    similarity.py    features -> scores, the one place where a score is made; ties.py says when two scores are equal
    retrieval.py, composition.py, grounding.py, branches.py, zero_shot.py, linear_probe.py     the tasks
    stand_ins.py     the shuffled control: which other picture takes each picture's place
    blind.py         what text alone would score on the same items
    rows.py          per-item values -> figures, with intervals.py
    result.py        TaskResult: saved and loaded; show.py prints it; compare.py sets two systems side by side on the same items
    suite.py         all of it in one call
"""
