"""Policies that do not learn: reference rows of a table, and models behind an endpoint."""
