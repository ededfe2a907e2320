"""What the program costs and what its losses teach, measured: each file is a program, run from the root of a checkout.

``python -m benchmarks.losses``, ``python -m benchmarks.loading``, ``python -m benchmarks.step``; docs/performance.md has the figures.
"""
