"""Where inputs come from: data sets, text, noise."""
