"""What runs inside AppWorld's own interpreter: nothing here may import from outside this folder and the standard library."""
