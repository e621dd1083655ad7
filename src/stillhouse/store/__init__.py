"""A teacher's signals on disk: written once, addressed by teacher, view and input."""

from stillhouse.store.build import build_store
from stillhouse.store.identity import Identity, identity_of, input_keys
from stillhouse.store.inspection import info, verify
from stillhouse.store.layout import Dense, Layout, TopK
from stillhouse.store.shards import Store

__all__ = [
    "Dense",
    "Identity",
    "Layout",
    "Store",
    "TopK",
    "build_store",
    "identity_of",
    "info",
    "input_keys",
    "verify",
]
