"""Captioning by a frozen causal language model that looks at an image tower through gated cross-attention (Flamingo; SPARC's Table 7).

``decoder.py`` is the language model, ``language_model.py`` trains a small one, ``resampler.py`` and ``cross_attention.py`` are what is learned,
``task.py`` trains them, ``generate.py`` writes captions, ``claims.py`` and ``scene_truth.py`` read what they say, ``measure.py`` counts.
"""
