"""Parts of ``benchmarks/pooled_blocks.py``: its variants, measurements and figure."""
