"""Which of two models is preferred, by whom."""
