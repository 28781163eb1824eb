"""What runs in the interpreter that has the other library: nothing of this project but `environments.isolation`."""
