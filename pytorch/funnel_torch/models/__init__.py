"""The Funnel-Transformer, its task heads, and loading and saving."""
