"""The content-addressed store of observations and quantized checkpoints."""

from pytest_quantgate.store.cache import Listing, Store, StoreWarning
from pytest_quantgate.store.layered import Layered

__all__ = ["Layered", "Listing", "Store", "StoreWarning"]
