"""Playing: conversations of a policy with environments, turn by turn, and the evidence that credit needs of them."""
