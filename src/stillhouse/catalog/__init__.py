"""The papers of the field, and how far each is shown to work here.

A paper's state is derived: from the recipes that name it, and from what their proofs measured.
Nothing here imports torch or pydantic.
"""
