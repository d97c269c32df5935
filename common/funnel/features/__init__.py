"""Examples to model inputs, and model outputs back to predictions."""
