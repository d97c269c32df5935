"""What the benchmarks share: other implementations to compare with, texts, and timing."""
