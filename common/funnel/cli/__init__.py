"""Command lines that programs of both frameworks share."""
