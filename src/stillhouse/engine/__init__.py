"""The engine: players, turns, stages, precision, checkpoints, events. It knows no method."""
