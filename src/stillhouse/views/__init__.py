"""What a model gets to see of an input, and the signals it yields on it."""
