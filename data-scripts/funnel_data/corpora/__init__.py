"""Raw corpora to text files with one sentence per line."""
