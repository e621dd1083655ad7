"""Small reference networks and samplers for recipes and tests, and the adapters to Hugging Face models."""
