"""Predictions: inputs of any form, and rows of a file with labels, probabilities and logits."""
