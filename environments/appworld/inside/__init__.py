"""What runs inside AppWorld's interpreter: nothing here imports but this folder, AppWorld and the standard library."""
