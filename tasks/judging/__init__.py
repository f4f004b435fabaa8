"""Models that judge: what they are shown, how their answers are read, what stands in when they fail."""
