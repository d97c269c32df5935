"""The TensorFlow tree: graphs for TPUEstimator, with the variable names of the releases."""
