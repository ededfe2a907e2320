"""Open-vocabulary detection: OWL-ViT's heads (Minderer et al., *Simple Open-Vocabulary Object Detection with Vision Transformers*, ECCV 2022,
arXiv 2205.06230) on the patches of any of our image towers."""
