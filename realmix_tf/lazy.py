"""TensorFlow, imported at its first use.

Method files declare their flags in a dataclass, and a command must be able to show those flags
without waiting for TensorFlow. ``from realmix_tf.lazy import tf`` reads like the real thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf
else:

    class _LazyTensorFlow:
        def __getattr__(self, name: str) -> Any:
            import tensorflow

            return getattr(tensorflow, name)

    tf = _LazyTensorFlow()

__all__ = ["tf"]
