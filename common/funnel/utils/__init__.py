"""Errors, atomic files, logging and program start-up."""
