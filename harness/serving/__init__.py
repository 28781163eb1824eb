"""A backend behind an OpenAI-compatible HTTP server."""
