"""Training runs of both backends: time left, last lines, provenance, and series of runs."""
