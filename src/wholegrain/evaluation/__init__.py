"""Evaluation: one file per task family, every figure with its interval, count, chance level and shuffled-images control.

The path through this room::

    features/encode.py         images and texts -> features (each distinct text once)
    scores/similarity.py       features -> scores, the one place where a score is made; statistics/ties.py says when two scores are equal
    scores/whole_and_grain.py  any model with patches, scored by whole and grain
    read_outs/                 how a phrase is read out of patches
    tasks/                     retrieval, composition, grounding, branches, zero_shot, linear_probe, ...
    dense/, benchmarks/        segmentation, boxes and pointing; the field's benchmarks and their readers
    statistics/stand_ins.py    the shuffled control: which other picture takes each picture's place
    statistics/blind.py        what text alone would score on the same items
    statistics/rows.py         per-item values -> figures, with intervals.py; compare.py sets two systems side by side on the same items
    result.py                  TaskResult: saved and loaded; show.py prints it
    suite.py                   all of it in one call
"""
