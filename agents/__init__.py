"""How an agent acts and learns: credit-assignment methods, privileged contexts, policies, prompts."""

CONTEXTS = {
    "successful_sibling": "agents.contexts:SuccessfulSibling",
    "first_successful_sibling": "agents.contexts:FirstSuccessfulSibling",
    "reference_solution": "agents.contexts:ReferenceSolution",
    "answer": "agents.contexts:Answer",
    "sibling_and_answer": "agents.contexts:SiblingAndAnswer",
    "sibling_or_solution": "agents.contexts:SiblingOrSolution",
    "credit_reference": "agents.contexts:CreditReference",
}
"""Context sources by short name."""
