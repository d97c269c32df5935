"""TPUEstimator set-up, optimizer, evaluation and run directories."""
