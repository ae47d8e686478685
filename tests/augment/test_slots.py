"""From slots to policies: the weak policy first, the strong one on its result."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from pillow_reference import varied

from realmix_tf.augment import views
from realmix_tf.augment.autoaugment import SVHN, AutoAugment
from realmix_tf.augment.codes import STRONG_WORDS, parse
from realmix_tf.augment.ctaugment import CTAugment, initial_rates
from realmix_tf.augment.policies import get_policy
from realmix_tf.augment.randaugment import RandAugment
from realmix_tf.augment.slots import slot_policy
from realmix_tf.randomness import uniforms


def strong(code: str, dataset: str = "cifar10"):
    return slot_policy(parse(f"d.d.{code}", dataset).strong)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("code", [*STRONG_WORDS, "ra3", "rac9", "r2_10_50"])
def test_views_are_those_of_the_weak_and_then_the_strong_policy(code, channels):
    policy, images = strong(code), tf.constant(varied(32, 16, 20, channels))
    numbers = uniforms(1, "unlabeled/strong", 0, 32, policy.width)
    rates = tf.constant(initial_rates()) if policy.learned else None
    view = policy(images, numbers, rates)
    moved = get_policy("cifar10")(images, numbers[:, :3])
    if policy.learned:
        expected = policy.strong(moved, numbers[:, 3:], rates)
    else:
        expected = policy.strong(moved, numbers[:, 3:])
    np.testing.assert_array_equal(views.filled(view), views.filled(expected))
    assert policy.name == f"cifar10+{code}"
    assert view.pixels.shape == images.shape


def test_a_weak_slot_is_the_weak_policy_alone():
    policy = slot_policy(parse("d.d.rac", "svhn").weak)
    weak, images = get_policy("svhn"), tf.constant(varied(16, 12, 12, 3))
    numbers = uniforms(1, "unlabeled/weak", 0, 16, policy.width)
    view = policy(images, numbers)
    assert view.hidden is None
    assert (policy.name, policy.width, policy.min_size) == ("svhn", weak.width, weak.min_size)
    np.testing.assert_array_equal(view.pixels, weak(images, numbers))
    np.testing.assert_array_equal(
        views.to_float(view).numpy(), views.to_float(weak(images, numbers)).numpy()
    )


def test_codes_become_policies_of_their_kind():
    assert strong("aac", "svhn").strong == AutoAugment(SVHN, True)
    assert isinstance(strong("rapc").strong, RandAugment)
    assert strong("cta").strong == CTAugment()
    assert strong("ctac").strong == CTAugment(cutout=True)
    usual = CTAugment(depth=3, threshold=0.85, decay=0.9)
    policy = slot_policy(parse("ctac.d.d", "cifar10").labeled, usual)
    assert policy.strong == CTAugment(3, 0.85, 0.9, True)


def test_sizes_and_names_say_what_is_needed():
    assert strong("rac").min_size == 8
    assert slot_policy(parse("d.stl10.rac", "cifar10").strong).min_size == 13
    assert slot_policy(parse("x.x.x", "cifar10").strong).min_size == 1


@pytest.mark.parametrize("code", ["cta", "ctac"])
def test_probe_views_come_with_their_chains_and_without_forced_cutout(code):
    policy, images = strong(code), tf.constant(varied(32, 16, 16, 3))
    numbers = uniforms(1, "labeled/probe", 0, 32, policy.probe_width)
    view, drawn = policy.probe(images, numbers)
    moved = get_policy("cifar10")(images, numbers[:, :3])
    expected = CTAugment().apply(moved, CTAugment().probe(numbers[:, 3:]))
    np.testing.assert_array_equal(views.filled(view), views.filled(expected))
    assert drawn.op.shape == (32, 2)
    rates = policy.strong.updated(tf.constant(initial_rates()), drawn, tf.zeros([32]))
    assert (rates.numpy() < initial_rates()).any()


def test_only_what_learns_has_rates_and_probes():
    images, policy = tf.constant(varied(4, 16, 16, 3)), strong("cta")
    with pytest.raises(TypeError, match=r"cifar10\+cta.*rates"):
        policy(images, tf.zeros([4, policy.width]))
    with pytest.raises(TypeError, match=r"cifar10\+rac.*learns nothing"):
        strong("rac").probe(images, tf.zeros([4, 20]))
    with pytest.raises(TypeError, match="learns nothing"):
        _ = strong("rac").probe_width


@pytest.mark.parametrize("code", ["rac", "rau", "aac", "ctac"])
def test_the_smallest_images_and_dynamic_batches_work_in_graphs(code):
    policy = slot_policy(parse(f"d.digits.{code}", "digits").strong)
    rates = tf.constant(initial_rates()) if policy.learned else None
    signature = [
        tf.TensorSpec([None, 8, 8, 1], tf.uint8),
        tf.TensorSpec([None, policy.width], tf.float32),
    ]
    graph = tf.function(
        lambda images, numbers: views.to_float(policy(images, numbers, rates)),
        input_signature=signature,
    )
    for count in (5, 1, 0):
        images = tf.constant(varied(5, 8, 8, 1)[:count])
        numbers = uniforms(1, "strong", 0, count, policy.width)
        assert graph(images, numbers).shape == (count, 8, 8, 1)
        eager = views.to_float(policy(images, numbers, rates))
        np.testing.assert_array_equal(graph(images, numbers), eager)
