"""Credit fidelity: what methods say of sampled tokens, measured against what these tokens were truly worth."""
