"""The training loop, optimizers, distribution and run directories."""
