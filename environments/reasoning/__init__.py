"""Reasoning-v0 and ReasoningMini-v0: one question, one completion, a verifier."""
