"""Funnel-Transformer for TensorFlow: TPUEstimator graphs with the released variable names."""
