"""Pure losses: `(student, target, ...) -> per-sample tensor`, and the terms that apply them to signals."""
