"""Downloads of data sets and checkpoints, and preparation of raw corpora."""
