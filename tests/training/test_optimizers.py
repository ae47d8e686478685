"""The recipes' optimisers against NumPy, and the learning rate's way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.errors import UsageError
from realmix_tf.methods.base import RECIPES, SGD
from realmix_tf.methods.registry import FILES, get_method, recipe_of
from realmix_tf.training.optimizers import build_optimizer, learning_rate
from realmix_tf.training.settings import TrainSettings


def test_nesterov_momentum_equals_the_plain_rule_also_when_the_rate_changes():
    random = np.random.default_rng(0)
    weight = tf.Variable(random.normal(size=(3, 2)), dtype=tf.float32)
    rate = tf.Variable(0.1)
    optimizer = build_optimizer(TrainSettings(optimizer="sgd", momentum=0.8), rate, [weight])
    value, total = weight.numpy().astype(np.float64), np.zeros((3, 2))
    for step in range(5):
        gradient = random.normal(size=(3, 2)).astype(np.float32)
        rate.assign(0.1 / (step + 1))
        optimizer.apply([tf.constant(gradient)], [weight])
        total = 0.8 * total + gradient
        value -= 0.1 / (step + 1) * (gradient + 0.8 * total)
        np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_rate_of_zero_and_gradients_of_zero_leave_the_weights(optimizer):
    weight, rate = tf.Variable([1.0, -2.0]), tf.Variable(0.1)
    made = build_optimizer(TrainSettings(optimizer=optimizer), rate, [weight])
    made.apply([tf.constant([0.5, 0.5])], [weight])
    before = weight.numpy()
    rate.assign(0.0)
    made.apply([tf.zeros([2])], [weight])
    np.testing.assert_array_equal(weight, before)


def test_fixmatch_s_rate_is_the_seven_sixteenths_cosine():
    settings = TrainSettings(lr=1.0, lr_final=SGD.lr_final)
    shares = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    for share, factor in zip(shares, (1, 0.94154, 0.77301, 0.51410, 0.19509, 0.19509), strict=True):
        found = float(learning_rate(settings, tf.constant(share)))
        assert found == pytest.approx(factor, abs=1e-5)
        assert found == pytest.approx(math.cos(7 * math.pi / 16 * min(share, 1)), abs=1e-6)


def test_the_rate_is_constant_unless_asked_and_adamatch_s_ends_at_a_quarter():
    assert float(learning_rate(TrainSettings(lr=0.002), tf.constant(0.9))) == pytest.approx(0.002)
    recipe = get_method("adamatch").recipe
    settings = TrainSettings(lr=recipe.lr, lr_final=recipe.lr_final)
    assert float(learning_rate(settings, tf.constant(1.0))) == pytest.approx(0.25 * 0.03)


def test_every_method_has_one_of_the_two_recipes_with_its_own_numbers():
    kinds = {name: (r.optimizer, r.wd_mode) for name, r in RECIPES.items()}
    assert kinds == {"adam": ("adam", "decoupled"), "sgd": ("sgd", "l2")}
    for file in FILES:
        name = file.__name__.rpartition(".")[2]
        recipe = get_method(name).recipe
        assert (recipe.optimizer, recipe.wd_mode) in kinds.values()
        TrainSettings(**vars(recipe))


def test_a_recipe_is_chosen_by_name_or_the_method_s_own():
    mixmatch = get_method("mixmatch")
    assert recipe_of(mixmatch) is mixmatch.recipe
    assert recipe_of(mixmatch, "sgd") is SGD
    with pytest.raises(UsageError, match=r"'lion'.*--recipe.*adam or sgd"):
        recipe_of(mixmatch, "lion")
