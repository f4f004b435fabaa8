"""A question, or a file of them, to a panel."""
