"""Command lines of the programs in ``data-scripts/``."""
