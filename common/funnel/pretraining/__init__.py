"""Pretraining data: record files, their order, and masking."""
