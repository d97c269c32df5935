"""Flags and start-up of the PyTorch programs."""
