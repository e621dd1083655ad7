"""Reading inner activations by module path; no model is edited."""

from stillhouse.taps.hooks import Taps

__all__ = ["Taps"]
