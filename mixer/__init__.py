"""MLP-Mixer in JAX and Flax: pre-training, fine-tuning and evaluation, as in arXiv:2105.01601."""

__version__ = "0.1.0"
