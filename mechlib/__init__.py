"""mechlib: a notebook course in mechanistic interpretability with a checked exercise library."""

__version__ = "0.1.0"
