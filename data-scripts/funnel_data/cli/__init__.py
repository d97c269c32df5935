"""Command lines shared by the programs in ``data-scripts/``."""
