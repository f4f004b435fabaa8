"""OpenRouter's own: credits, models, completions."""
