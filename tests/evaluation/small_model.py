"""A network that is built in no time, and weights for it."""

from __future__ import annotations

import numpy as np

from realmix_tf.nets.build import build_network
from realmix_tf.nets.spec import NetworkSpec

CLASSES = ("ant", "bee", "cat", "dog")
SPEC = NetworkSpec("small", 4, 8, 8, 3, 4)


def random_weights(seed: int) -> dict[str, np.ndarray]:
    """Weights far from their initial values, moving averages too."""
    draw = np.random.default_rng(seed)
    weights = {}
    for name, variable in build_network(SPEC).variables_by_name().items():
        value = draw.normal(0, 0.4, variable.shape).astype(np.float32)
        weights[name] = np.abs(value) + 0.5 if name.endswith(("gamma", "variance")) else value
    return weights
