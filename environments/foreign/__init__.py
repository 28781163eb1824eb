"""Environments of other libraries, played in the interpreter that has the library, and ours for such a library."""
