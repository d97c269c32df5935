"""Ahead-of-time compilation of training steps for TPUs."""
