"""Votes, ranks and likeness: pure counting, and the reading of what is counted."""
