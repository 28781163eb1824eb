"""A report page: one HTML file with everything in it, for people who decide by looking."""
