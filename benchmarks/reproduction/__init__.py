"""Parts of ``benchmarks/reproduce.py``: the plan of its runs, their data, and the figure."""
