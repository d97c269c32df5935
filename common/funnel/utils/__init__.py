"""Errors, files, JSON, logging, processes and program start-up; imports no other sub-package."""
