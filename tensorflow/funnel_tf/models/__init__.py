"""Graph functions of the Funnel-Transformer and its task heads."""
