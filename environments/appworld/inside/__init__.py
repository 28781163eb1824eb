"""What runs inside AppWorld's own interpreter: nothing here imports from outside this folder, AppWorld and the standard
library.
"""
