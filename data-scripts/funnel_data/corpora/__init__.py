"""Raw corpora to text files of one sentence per line."""
