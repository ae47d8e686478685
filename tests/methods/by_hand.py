"""What the papers define, written out slowly in float64: the references of these tests."""

from __future__ import annotations

import numpy as np


def flat(images) -> np.ndarray:
    """[N, …] → float64 [N, pixels]."""
    return np.asarray(images, np.float64).reshape(len(images), -1)


def logits_of(network, *blocks) -> list[np.ndarray]:
    """What a linear network says in one training pass over these blocks of images, by block."""
    return _linear(network, network.weights, blocks)


def features_of(network, *blocks) -> list[np.ndarray]:
    """The pooled features in one training pass over these blocks, by block."""
    return _linear(network, network.feature_weights, blocks)


def maps_of(network, *blocks) -> list[np.ndarray]:
    """The flattened feature maps in one training pass over these blocks, by block."""
    return _linear(network, network.map_weights, blocks)


def _linear(network, weights, blocks) -> list[np.ndarray]:
    rows = np.concatenate([flat(block) for block in blocks])
    if network.centred:
        rows = rows - rows.mean(0)
    edges = np.cumsum([len(block) for block in blocks])[:-1]
    return np.split(rows @ weights.numpy().astype(np.float64), edges)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def one_hot(labels, classes: int) -> np.ndarray:
    return np.eye(classes)[np.asarray(labels)]


def cross_entropy(targets, logits: np.ndarray) -> np.ndarray:
    """Σ_c −t_c·log p_c of each row; targets are classes or distributions."""
    targets = np.asarray(targets)
    if targets.ndim == 1:
        targets = one_hot(targets, logits.shape[1])
    rows = np.zeros(len(logits))
    for i, (target, p) in enumerate(zip(targets, softmax(logits), strict=True)):
        for t, value in zip(target, p, strict=True):
            rows[i] -= t * np.log(value) if t else 0.0
    return rows


def entropy(p: np.ndarray) -> np.ndarray:
    return np.array([-sum(v * np.log(v) for v in row if v) for row in p])


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p ‖ q) of each row."""
    return np.array(
        [
            sum(a * np.log(a / b) for a, b in zip(x, y, strict=True) if a)
            for x, y in zip(p, q, strict=True)
        ]
    )


def normalized(rows: np.ndarray) -> np.ndarray:
    return rows / rows.sum(-1, keepdims=True)


def sharpened(p: np.ndarray, temperature: float) -> np.ndarray:
    return normalized(p ** (1 / temperature))


def aligned(p: np.ndarray, wanted, observed) -> np.ndarray:
    """Norm(p·(1e−6 + wanted)/(1e−6 + observed)), row by row."""
    ratio = (1e-6 + np.asarray(wanted)) / (1e-6 + np.asarray(observed))
    return np.array([row * ratio / (row * ratio).sum() for row in p])


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return np.array([row / np.sqrt((row**2).sum()) for row in rows])


def projected(weights, features: np.ndarray) -> np.ndarray:
    """Two layers with a ReLU between, scaled to length 1."""
    hidden = features @ weights["projection/hidden/kernel"] + weights["projection/hidden/bias"]
    hidden = np.maximum(hidden, 0)
    out = hidden @ weights["projection/output/kernel"] + weights["projection/output/bias"]
    return unit(out)


def interleaved(blocks: list[np.ndarray]) -> list[np.ndarray]:
    """Swaps group i of block 0 with group i of block i; what is left over goes to the last."""
    size, groups = len(blocks[0]), len(blocks)
    sizes = [size // groups] * groups
    for index in range(size - sum(sizes)):
        sizes[-1 - index] += 1
    out = [block.copy() for block in blocks]
    start = 0
    for index, count in enumerate(sizes):
        part = slice(start, start + count)
        out[0][part], out[index][part] = blocks[index][part], blocks[0][part]
        start += count
    return out


def unmixed(mixed, rows, pool) -> tuple[np.ndarray, np.ndarray]:
    """Finds how each row was mixed: its own share, and which row of the pool is its partner.

    The pixels say so: mixed = λ·row + (1 − λ)·partner has one solution for random images.
    """
    mixed, rows, pool = flat(mixed), flat(rows), flat(pool)
    shares, partners = np.ones(len(rows)), np.full(len(rows), -1)
    for i, (found, row) in enumerate(zip(mixed, rows, strict=True)):
        best = np.inf
        for j, other in enumerate(pool):
            step = row - other
            length = step @ step
            share = (found - other) @ step / length if length else 1.0
            wrong = np.abs(share * row + (1 - share) * other - found).max()
            if wrong < best:
                best, shares[i], partners[i] = wrong, share, j
        assert best < 1e-6, f"row {i} is no mixture of itself and one of the pool"
    return shares, partners


def mixed_with(rows: np.ndarray, pool: np.ndarray, shares, partners) -> np.ndarray:
    """λ·row + (1 − λ)·partner, row by row."""
    return np.array(
        [s * r + (1 - s) * pool[j] for r, s, j in zip(rows, shares, partners, strict=True)]
    )


def gradient_of_cross_entropy(images, targets, logits: np.ndarray, weight) -> np.ndarray:
    """d/dW of Σ_i weight_i·CE(target_i, softmax(image_i·W)), the targets fixed."""
    targets = np.asarray(targets)
    if targets.ndim == 1:
        targets = one_hot(targets, logits.shape[1])
    slope = np.zeros((flat(images).shape[1], logits.shape[1]))
    for x, t, p, w in zip(flat(images), targets, softmax(logits), weight, strict=True):
        slope += w * np.outer(x, p * t.sum() - t)
    return slope


def gradient_of_squares(images, targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """d/dW of the mean over rows and classes of (target − softmax(image·W))², targets fixed."""
    slope = np.zeros((flat(images).shape[1], logits.shape[1]))
    for x, t, p in zip(flat(images), targets, softmax(logits), strict=True):
        error = 2 * (p - t) / logits.size
        slope += np.outer(x, p * (error - (p * error).sum()))
    return slope
