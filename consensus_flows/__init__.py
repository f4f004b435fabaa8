"""Many models, one answer, as workflows on Prefect."""

__version__ = "0.1.0"
