"""What a run leaves for its reader: the page, the card, tables, comparisons. Imports no torch."""
