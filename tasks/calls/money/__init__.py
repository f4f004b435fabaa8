"""What a call costs and may cost: prices, service tiers, budgets."""
