"""Whatever gives targets."""
