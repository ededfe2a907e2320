"""Where the base model of the demo comes from: made, and measured by gates, on scenes; docs/base.md has the story and the figures.

``PYTHONPATH=tools python -m base_model OUT`` makes it, ``PYTHONPATH=tools python -m base_model gates`` says whether it serves.
"""
