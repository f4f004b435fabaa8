"""OpenRouter's account, its list of models, and what of it works."""
