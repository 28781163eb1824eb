"""Matched comparison of credit-assignment methods for language-model agents."""

from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `harness`, `environments` and `agents`."""
