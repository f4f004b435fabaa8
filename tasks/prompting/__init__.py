"""What stands around a question, and what is kept apart in an answer."""
