"""Recipes: the schema, loading, overrides, errors; and the plan a recipe stands for."""
