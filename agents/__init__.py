"""How an agent acts and learns: credit-assignment methods, privileged contexts, policies, prompts."""
