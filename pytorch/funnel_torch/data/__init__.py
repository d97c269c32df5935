"""Batches for fine-tuning and pretraining."""
