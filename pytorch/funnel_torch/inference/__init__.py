"""Prediction with a finished model: as a class, for programs and notebooks."""
