"""Tasks on top of a model's image tower: a head is trained on its tokens, and measured.

``task.py`` says what a task is, ``trainer.py`` trains any of them, ``run_folder.py`` keeps what was done. A task is a package of its own, as
:mod:`wholegrain.downstream.detection`.
"""
