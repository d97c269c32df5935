"""``tf.data`` input pipelines and masking in the graph."""
