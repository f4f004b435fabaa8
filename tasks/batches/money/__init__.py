"""What a batch may spend, and what its requests took."""
