"""Download data sets and checkpoints, and turn raw corpora into text files."""
