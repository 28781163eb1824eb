"""Matched comparison of credit-assignment methods for language-model agents."""

__version__ = "0.1.0"
