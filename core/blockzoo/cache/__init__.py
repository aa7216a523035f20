"""What generation remembers: one state a layer, made by the layer's own mixer, and the cache of all of them."""

from blockzoo.cache.model_cache import Bookmark, ModelCache, make_cache
from blockzoo.cache.states import Even, Rollback, State
from blockzoo.cache.token_state import TokenState

__all__ = ["Bookmark", "Even", "ModelCache", "Rollback", "State", "TokenState", "make_cache"]
