"""Any set of parameters with a forward function."""
