"""Flags and start-up of the TensorFlow programs."""
