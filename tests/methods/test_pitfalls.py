"""What published implementations got wrong, or easily get wrong, number by number.

Tests of this file are called test_01_… to test_34_…; what other tests prove stands here.

 1 MixUp draws a share a row; label rows keep their sum
   test_mixing::test_every_row_has_a_ratio_of_its_own_in_the_upper_half
   test_mixing::test_mixup_equals_a_plain_loop_and_label_rows_keep_their_sum
   test_mixmatch_modes::test_shares_are_a_row_s_own_and_partners_a_permutation
   test_baselines::test_ict_asks_for_the_mixture_of_the_teacher_s_answers
   test_baselines::test_mixup_mixes_labelled_and_unlabelled_images_with_their_mirrors
 2 sharpening keeps order and adds no entropy; no NaN at 0
   test_targets::test_sharpening_by_one_half
   test_targets::test_sharpening_keeps_the_order_and_never_adds_entropy
   test_targets::test_temperature_one_changes_nothing_and_a_tiny_one_gives_one_hot
   test_targets::test_sharpening_certain_predictions_has_finite_values_and_gradients
 3 guesses carry no gradient and are shared by the views
   test_losses::test_guesses_are_shared_by_the_views_and_carry_no_gradient
   test_remixmatch::test_targets_carry_no_gradient
 4 squared distances are means over classes too
   test_losses::test_mixmatch_equals_the_plain_one
 5 masks divide by all rows (FixMatch) or by max(kept, 1) (UDA, RealMix)
   test_fixmatch_family::test_fixmatch_s_loss_halves_with_the_mask
   test_fixmatch_family::test_a_network_sure_of_nothing_keeps_nothing_and_stays_finite
   test_fixmatch_family::test_uda_leaves_out_labelled_images_known_too_well
   test_losses::test_dropping_rows_divides_by_the_kept_ones_not_by_all
   test_losses::test_a_batch_of_which_nothing_is_kept_gives_zero_with_finite_gradients
 6 ≥ or >
   test_fixmatch_family::test_flexmatch_keeps_a_row_exactly_at_its_class_s_threshold
   test_fixmatch_family::test_freematch_keeps_a_row_exactly_at_its_threshold
   test_fixmatch_family::test_dash_keeps_a_row_exactly_at_its_threshold
   test_adamatch::test_the_threshold_follows_the_labelled_confidence_and_equality_counts
 7 interleaving
   test_mixing::test_interleaving_twice_is_the_identity
   test_mixing::test_the_first_of_three_blocks_of_64_samples_all_and_the_others_keep_their_places
 8 moving averages move once an update
   nets/test_networks::test_moving_averages_take_a_thousandth_of_the_batchs_mean_and_unbiased_variance
   nets/test_networks::test_other_passes_leave_every_variable_bit_identical
   training/test_every_method::test_the_moving_averages_move_once_an_update_by_one_pass
   test_losses::test_passes_moving_averages_and_interleaving
 9 averaged weights
   training/test_engine::test_after_n_updates_of_constant_weights_the_average_holds_the_share_decay_to_the_n
   training/test_engine::test_the_average_starts_at_the_initial_weights_and_evaluation_weights_are_as_published
   training/test_engine::test_a_run_continued_from_a_checkpoint_is_bit_identical_to_an_uninterrupted_one
10 decoupled decay
   training/test_engine::test_a_step_without_gradient_shrinks_kernels_by_the_published_factor_and_nothing_else
   training/test_engine::test_decoupled_decay_follows_the_rate_of_the_update
11 the L2 term's gradient is wd·v
   training/test_engine::test_l2_decay_moves_kernels_by_wd_times_themselves_and_nothing_else
12 the cosine
   training/test_optimizers::test_fixmatch_s_rate_is_the_seven_sixteenths_cosine
13 ramps
   test_annealing_and_masks::test_the_ramp_is_linear_in_labelled_images_and_clipped
   test_annealing_and_masks::test_the_ramp_over_a_share_of_the_run
   training/test_engine::test_the_ramp_and_the_progress_follow_the_images_seen
14 distribution alignment
   test_targets::test_alignment_to_what_is_observed_changes_nothing_and_rows_always_sum_to_one
   test_remixmatch::test_the_averages_take_unaligned_predictions_and_labels_once_an_update
   training/test_distribution::test_methods_keep_on_two_devices_what_they_keep_on_one
15 default augmentation
   augment/test_policies::test_every_offset_occurs_equally_often_and_house_numbers_are_never_mirrored
   augment/test_ops::test_mirror_and_shift_is_flip_then_reflect_pad_then_crop
   augment/test_ops::test_floats_are_exact_for_every_byte_alone_and_in_a_pipeline
   training/test_input::test_the_views_of_an_image_are_augmented_independently
16 CTAugment
   training/test_learned_views::test_the_rates_follow_what_the_averaged_weights_say_of_the_probe_after_the_update
   training/test_learned_views::test_the_probe_trains_nothing
   training/test_learned_views::test_a_run_that_learns_its_augmentation_continues_bit_for_bit
18 splits
   data_tools/test_splits::test_the_draw_is_the_published_one
   data_tools/test_splits::test_published_vectors
   data_tools/test_splits::test_class_mixed_orders_keep_every_prefix_in_proportion
   data/test_training_data::test_sets_of_a_split_share_no_image_and_lose_none
19 hidden labels
   training/test_input::test_hidden_labels_of_unlabelled_images_reach_nothing
20 the median of the last evaluations, not the best
   evaluation/test_accuracy::test_medians_and_the_choice_by_validation
   evaluation/test_accuracy::test_test_accuracy_never_chooses
21 losses of the global batch
   training/test_distribution::test_sums_and_masked_means_are_over_the_global_batch
   training/test_distribution::test_weights_averages_and_metrics_are_those_of_one_device
   training/test_distribution::test_methods_that_draw_numbers_keep_the_same_on_both_devices
22 FlexMatch's memory
   test_fixmatch_family::test_flexmatch_s_thresholds_follow_what_was_sure_last
   test_fixmatch_family::test_flexmatch_s_thresholds_start_at_zero_so_that_all_count
23 the fairness term
   test_fixmatch_family::test_the_fairness_term_s_gradient_is_that_of_the_mean_strong_prediction_alone
24 SoftMatch's weight
   test_fixmatch_family::test_softmatch_s_weight_is_one_from_the_mean_on_and_falls_below_it
   test_fixmatch_family::test_softmatch_weighs_aligned_guesses_and_teaches_unaligned_ones
25 AdaMatch's two passes
   test_adamatch::test_only_the_joint_pass_moves_the_averages
   test_adamatch::test_logits_lie_between_the_joint_pass_and_the_labelled_one
   test_adamatch::test_the_threshold_follows_the_labelled_confidence_and_equality_counts
26 VAT's perturbation
   test_baselines::test_vat_steps_in_the_direction_that_changes_the_prediction_most
   test_baselines::test_vat_blocks_the_gradient_through_the_direction_and_through_the_clean_prediction
27 Mean Teacher's gradient is the student's
   test_baselines::test_mean_teacher_follows_the_averaged_weights_on_the_first_view
   test_baselines::test_the_same_network_on_the_same_views_has_nothing_to_learn
28 the Wide ResNet
   nets/test_networks::test_the_published_wide_resnet_has_the_published_counts
   nets/test_networks::test_the_first_unit_s_shortcut_sees_the_activated_input_and_the_others_the_raw_one
   nets/test_networks::test_logits_equal_those_of_the_plain_network
29 training signal annealing
   test_annealing_and_masks::test_the_threshold_of_ten_classes_at_start_middle_and_end
   test_annealing_and_masks::test_tsa_for_mixed_labels_equals_a_plain_loop
   test_fixmatch_family::test_annealing_looks_at_the_true_class_keeps_equality_and_survives_nothing_kept
30 mixed precision
   nets/test_networks::test_bfloat16_is_close_to_float32_and_keeps_weights_and_outputs_in_float32
31 Pseudo-Label's mask goes row by row
   test_baselines::test_pseudo_label_leaves_out_a_row_exactly_at_the_threshold_and_rows_are_masked_one_by_one
33 crops reach every offset
   augment/test_policies::test_every_offset_occurs_equally_often_and_house_numbers_are_never_mirrored

17 and 32 are RandAugment's, in tests/augment.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from by_hand import flat, logits_of, softmax
from doubles import (
    Context,
    LinearNetwork,
    Output,
    batch_of,
    context_of,
    method_of,
    network_of,
    numbers,
    show,
    task,
    tells,
    total_of,
)

from realmix_tf.errors import UsageError
from realmix_tf.methods import annealing, freematch, masks, softmatch
from realmix_tf.methods.base import ADAM, SGD, Batch, Term
from realmix_tf.methods.registry import FILES
from realmix_tf.methods.weak_strong import predict_together

EVERY = [file.__name__.rpartition(".")[2] for file in FILES]
OF_RECIPE_B = (
    *("uda", "fixmatch", "flexmatch", "freematch", "softmatch", "dash"),
    *("simmatch", "comatch", "crmatch", "defixmatch"),
)


def run(name, images=0.0, progress=0.0, of=None, batch=None, network=None, **options):
    method = method_of(name, of, **options)
    network = network or network_of(method)
    context = context_of(method, images=images, progress=progress, teacher=network_of(method))
    return method.losses(batch or batch_of(method), network, context)


@pytest.mark.parametrize(
    "name", ["mixup_supervised", "ict", "mixup", "mixmatch", "realmix", "remixmatch"]
)
def test_01_with_a_tiny_beta_images_stay_what_they_are(name):
    method = method_of(name, beta=1e-3)
    batch, network = batch_of(method), network_of(method)
    method.losses(batch, network, context_of(method, teacher=network))
    known = [flat(view) for view in (*batch.labeled.values(), *batch.unlabeled.values())]
    if name == "remixmatch":  # its last pass shows turned images
        network.calls.pop()
    unmoved = [
        np.abs(np.concatenate(known) - row).max(-1).min() < 1e-3
        for call in network.calls
        for row in flat(call.images)
    ]
    # Beta(0.001, 0.001) lies in the middle once in some 200 draws.
    assert np.mean(unmoved) > 0.9


# Views that a method looks at only to make targets; the Π-model's first view is one, CR-Match's
# weak view is not, since its features are pushed.
ONLY_TARGETS = {name: {"weak"} for name in ("adamatch", *OF_RECIPE_B) if name != "crmatch"}
ONLY_TARGETS |= {"pi_model": {"weak0"}, "mean_teacher": {"weak0"}}


@pytest.mark.parametrize("name", EVERY)
def test_03_views_that_only_make_targets_get_no_gradient_and_all_others_do(name):
    fields = method_of(name).config.__dataclass_fields__
    low = {"confidence": 0.3, "threshold": 0.3, "rho_min": 10.0}
    method = method_of(name, **{key: value for key, value in low.items() if key in fields})
    batch, network = batch_of(method), network_of(method)
    context = context_of(method, images=1e9, progress=1.0, teacher=network)
    with tf.GradientTape() as tape:
        tape.watch(dict(batch.unlabeled))
        total = total_of(method.losses(batch, network, context))
    slopes = tape.gradient(total, dict(batch.unlabeled), unconnected_gradients="zero")
    moved = {view for view, slope in slopes.items() if np.abs(slope).max() > 0}
    assert moved == set(batch.unlabeled) - ONLY_TARGETS.get(name, set())


def test_04_the_squared_distance_of_ten_classes_is_a_tenth_of_its_sum():
    for name, term in (("pi_model", "consistency"), ("mean_teacher", "consistency")):
        method = method_of(name, task(10))
        batch, network = batch_of(method), network_of(method)
        result = method.losses(batch, network, context_of(method, teacher=network))
        p, q = (softmax(logits_of(network, batch.unlabeled[f"weak{i}"])[0]) for i in (0, 1))
        sums = ((p - q) ** 2).sum(-1)
        np.testing.assert_allclose(result.terms[term].value, sums.mean() / 10, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "threshold", "kept"),
    [
        ("pseudo_label", "threshold", 0),
        ("uda", "confidence", 0),
        ("fixmatch", "confidence", 1),
        ("simmatch", "confidence", 1),
        ("comatch", "confidence", 1),
        ("crmatch", "confidence", 1),
        ("defixmatch", "confidence", 1),
    ],
)
def test_06_who_counts_a_row_exactly_at_the_threshold(name, threshold, kept):
    # Two classes, all rows undecided: a confidence of exactly 1/2, also after alignment.
    ratio = {} if name == "pseudo_label" else {"uratio": 1}
    of = task(2, 2, num_labeled=4)
    method = method_of(name, of, **ratio, **{threshold: 0.5})
    batch = batch_of(method)
    batch = batch._replace(unlabeled=batch.unlabeled | {"weak": show(np.zeros((2, 2)))})
    result = method.losses(batch, tells(network_of(method)), context_of(method))
    assert float(result.metrics["kept/unlabeled"]) == kept


def test_07_a_joint_pass_gives_every_block_its_own_rows_back():
    network = LinearNetwork(18, 5)
    random = np.random.default_rng(0)
    blocks = [tf.constant(random.normal(size=(n, 3, 3, 2)), tf.float32) for n in (4, 12, 12, 1)]
    outputs = predict_together(network, blocks)
    for output, block in zip(outputs, blocks, strict=True):
        alone = network(block, training=True, update_stats=False)
        for part, expected in zip(output, alone, strict=True):
            np.testing.assert_allclose(part, expected, atol=1e-6)
    assert [call.update_stats for call in network.calls] == [True] + [False] * 4


@pytest.mark.parametrize("name", EVERY)
def test_08_exactly_one_pass_of_an_update_moves_the_averages_and_all_normalise_by_their_rows(name):
    method = method_of(name)
    network, teacher = network_of(method), network_of(method)
    method.losses(batch_of(method), network, context_of(method, teacher=teacher))
    assert sum(call.update_stats for call in network.calls) == 1
    assert all(call.training for call in network.calls)
    assert (len(teacher.calls) > 0) == method.reads_teacher
    (moving,) = [call for call in network.calls if call.update_stats]
    mean = 0.001 * flat(moving.images).mean(0)
    np.testing.assert_allclose(network.moving_mean, mean, atol=1e-7)


def test_11_the_two_recipes_decay_in_their_own_ways_and_no_method_adds_to_it():
    assert (ADAM.wd_mode, ADAM.wd, ADAM.lr, ADAM.optimizer) == ("decoupled", 0.02, 0.002, "adam")
    assert (SGD.wd_mode, SGD.wd, SGD.lr, SGD.optimizer) == ("l2", 5e-4, 0.03, "sgd")
    for name in EVERY:
        method = method_of(name)
        if name == "adamatch":
            assert (method.recipe.wd_mode, method.recipe.wd) == ("l2", 1e-3)
        elif name == "mixup_supervised":
            assert (method.recipe.wd_mode, method.recipe.wd) == ("decoupled", 0.002)
        else:
            assert method.recipe == (SGD if name in OF_RECIPE_B else ADAM)
        assert not {"l2", "wd", "decay"} & set(run(name).terms)


def test_12_the_final_learning_rate_is_that_of_seven_sixteenths_of_pi():
    assert pytest.approx(0.19509, abs=1e-5) == SGD.lr_final
    assert ADAM.lr_final == 1
    angle = math.acos(SGD.lr_final)
    for share, factor in ((0, 1), (0.25, 0.94154), (0.5, 0.77301), (0.75, 0.51410), (1, 0.19509)):
        assert math.cos(share * angle) == pytest.approx(factor, abs=1e-5)


RAMPED = {
    "pseudo_label": {"consistency"},
    "pi_model": {"consistency"},
    "mean_teacher": {"consistency"},
    "vat": {"vat"},
    "ict": {"consistency"},
    "mixmatch": {"l2u"},
    "realmix": {"l2u"},
    "remixmatch": {"xeu", "kl"},
    "adamatch": {"xeu"},
    "simmatch": {"instance"},
}


@pytest.mark.parametrize("name", EVERY)
def test_13_what_is_ramped_starts_at_zero_and_all_else_at_its_full_weight(name):
    weights = []
    for progress, images in ((0.0, 0.0), (0.2, 512 * 1024.0), (1.0, 2.0**26)):
        terms = run(name, images, progress).terms
        weights.append({term: float(value.weight) for term, value in terms.items()})
    start, middle, end = weights
    for term, full in end.items():
        if term in RAMPED.get(name, ()):
            assert start[term] == 0
            if name not in ("adamatch", "simmatch"):
                assert middle[term] == pytest.approx(full / 2)
            assert full > 0
        else:
            assert start[term] == middle[term] == full


def test_14_after_128_updates_nothing_is_left_of_the_uniform_start():
    method = method_of("adamatch", task(3, 2), uratio=1)
    state = numbers(method.initial_state())
    network = network_of(method, scale=1.0)
    uniform = []
    for update in range(128):
        result = method.losses(batch_of(method, update), network, context_of(method, state=state))
        state = numbers(result.state)
        uniform.append(int(np.isclose(state["unlabeled_history"], 1 / 3).all(-1).sum()))
    assert uniform == list(range(127, -1, -1))


@pytest.mark.parametrize("name", EVERY)
def test_19_a_step_reads_the_batch_and_nothing_else(name):
    """A batch has no place for hidden labels, and the same batch gives the same step."""
    fields = ("labeled", "labels", "unlabeled", "labeled_index", "unlabeled_index")
    assert Batch._fields == fields
    method = method_of(name)
    batch = batch_of(method)
    assert len(batch.labels) == method.task.batch
    results = []
    for _ in range(2):
        tf.random.set_seed(len(results))
        network = network_of(method)
        context = context_of(method, images=1e6, progress=0.3, teacher=network)
        results.append(method.losses(batch, network, context))
    for one, two in zip(*map(tf.nest.flatten, results), strict=True):
        np.testing.assert_array_equal(one, two)


def test_22_flexmatch_remembers_a_class_for_every_unlabelled_image():
    method = method_of("flexmatch", task(3, 1, num_unlabeled=1000), uratio=4, confidence=0.9)
    state = numbers(method.initial_state())
    assert (state["sure_class"][:1000] == -1).all()
    network, batch = tells(network_of(method)), batch_of(method)
    index = tf.constant([999, 0, 500, 7], tf.int64)
    said = []
    for logits in (
        [[9, 0, 0], [0, 9, 0], [0, 0, 9], [1, 0, 0]],
        [[0, 9, 0], [0, 1, 0], [0, 0, 0], [0, 0, 9]],  # another class; two no longer sure
    ):
        views = {"weak": show(np.array(logits, float)), "strong": batch.unlabeled["strong"]}
        step = batch._replace(unlabeled=views, unlabeled_index=index)
        result = method.losses(step, network, context_of(method, state=state))
        state = numbers(result.state)
        said.append(state["sure_class"][[999, 0, 500, 7]].tolist())
        assert (state["sure_class"][:1000] >= 0).sum() == sum(c >= 0 for c in said[-1])
    assert said == [[0, 1, 2, -1], [1, 1, 2, 2]]


def test_22_flexmatch_s_published_thresholds():
    # Of 14 images class c was last sure c times, and four are unused: β = 0, ¼, ½, ¾, 1.
    method = method_of("flexmatch", task(5, num_unlabeled=14))
    sure = np.concatenate([np.repeat(np.arange(5), np.arange(5)), np.full(4, -1)])
    found = method.thresholds(tf.constant(sure, tf.int32))
    np.testing.assert_allclose(found, [0, 0.136, 0.317, 0.57, 0.95], atol=5e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_23_the_fairness_term_is_never_positive_and_never_moves_the_averages(seed, share):
    random = np.random.default_rng(seed)
    strong = tf.constant(random.dirichlet(np.full(6, 0.3), 20), tf.float32)
    mask = tf.constant(random.uniform(size=20) < share, tf.float32)
    p, h = (tf.Variable(random.dirichlet(np.ones(6)), dtype=tf.float32) for _ in range(2))
    h.assign(np.where(np.arange(6) == 2, 0, h.numpy()))  # a class no guess ever named
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(strong)
        value = freematch.fairness_loss(strong, mask, p, h, Context())
    assert float(value) <= 0
    assert np.isfinite(float(value))
    assert (float(value) == 0) == (share == 0)  # nothing kept says nothing
    assert tape.gradient(value, [p, h]) == [None, None]
    slope = tape.gradient(value, strong)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(np.asarray(slope)[np.asarray(mask) == 0], 0)


def test_24_the_unbiased_variance_needs_two_rows():
    with pytest.raises(UsageError, match="variance"):
        method_of("softmatch", task(rows=1), uratio=1).check(1)
    method_of("softmatch", task(rows=2), uratio=1).check(1)
    values = [0.2, 0.4, 0.9]
    mean, variance = softmatch.moments(tf.constant(values), Context())
    np.testing.assert_allclose([mean, variance], [np.mean(values), np.var(values, ddof=1)], 1e-6)


def test_24_the_weight_is_one_from_the_mean_on_also_without_any_variance():
    # All guesses equally sure, as when training has collapsed.
    for variance in (0.04, 1e-20, 0.0):
        confidence = tf.constant([0.5, 0.8, 0.9])
        weight = softmatch.gaussian_weight(confidence, 0.8, tf.constant(variance), 2.0)
        np.testing.assert_array_equal(weight[1:], [1, 1])
        assert 0 <= float(weight[0]) < 1


def test_26_vat_s_perturbation_has_its_length_in_every_image_and_costs_four_passes():
    of = task(5, 8, image_size=(16, 16))
    method = method_of("vat", of)
    batch, network = batch_of(method), network_of(method, scale=0.05)
    method.losses(batch, network, context_of(method))
    assert len(network.calls) == 4
    moved = flat(network.calls[3].images) - flat(batch.unlabeled["weak"])
    np.testing.assert_allclose(np.sqrt((moved**2).sum(-1)), 6, rtol=1e-3)


@pytest.mark.parametrize("schedule", ["linear_schedule", "exp_schedule", "log_schedule"])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_29_annealing_starts_near_one_over_c_and_ends_near_one(schedule, classes):
    start, end = (
        float(annealing.tsa_threshold(schedule, tf.constant(t), classes)) for t in (0.0, 1.0)
    )
    low, high = 1 / classes, 1
    slack = (1 - low) * math.exp(-5)
    assert start == pytest.approx(low + slack * (schedule == "exp_schedule"), abs=1e-6)
    assert end == pytest.approx(high - slack * (schedule == "log_schedule"), abs=1e-6)


def test_29_with_mixed_labels_annealing_compares_with_the_labels():
    # The same predictions under other labels: what matters is p against label·η.
    p = tf.constant([[0.5, 0.3, 0.2]] * 3)
    labels = tf.constant([[0.8, 0.2, 0.0], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]])
    kept = masks.tsa_mask(p, labels, tf.constant(0.6))
    np.testing.assert_array_equal(kept, [0, 1, 1])


class HalfPrecise(LinearNetwork):
    """Computes its feature map in bfloat16, as a network in mixed precision does."""

    def __call__(self, images, *, training, update_stats):
        output = super().__call__(images, training=training, update_stats=update_stats)
        return output._replace(feature_map=tf.cast(output.feature_map, tf.bfloat16))


@pytest.mark.parametrize("name", EVERY)
def test_30_losses_numbers_and_state_are_float32(name):
    method = method_of(name)
    network = HalfPrecise(18, 5)
    context = context_of(method, teacher=network)
    result = method.losses(batch_of(method), network, context)
    for term in result.terms.values():
        assert isinstance(term, Term)
        assert term.value.dtype == tf.float32
        assert isinstance(term.weight, (int, float)) or term.weight.dtype == tf.float32
        assert term.value.shape == ()
    assert all(value.dtype == tf.float32 for value in result.metrics.values())
    before = method.initial_state()
    assert result.state.keys() == before.keys()
    for key, value in result.state.items():
        kind = tf.int32 if key == "sure_class" else tf.float32
        assert value.dtype == before[key].dtype == kind
        assert value.shape == before[key].shape


def test_34_papers_are_the_default_and_other_editions_have_names():
    softmatches = [
        run("softmatch", statistics=choice, statistics_decay=0.5)
        for choice in ("unaligned", "aligned")
    ]
    assert method_of("softmatch").config.statistics == "unaligned"
    assert abs(float(softmatches[0].state["mean"]) - float(softmatches[1].state["mean"])) > 1e-4
    # UDA's temperature is not ignored.
    sharp, flat_ = (run("uda", temperature=t, confidence=0.3) for t in (0.4, 1.0))
    assert abs(float(total_of(sharp)) - float(total_of(flat_))) > 1e-3
    # AdaMatch has its ramp; its interpolation is test_adamatch's.
    assert float(run("adamatch").terms["xeu"].weight) == 0


def test_what_is_named_above_exists():
    tests = Path(__file__).parents[1]
    named = re.findall(r"^   ([\w/]+)::(\w+)$", __doc__, re.M)
    assert len(named) > 60
    for file, test in named:
        path = tests / f"{file}.py" if "/" in file else tests / "methods" / f"{file}.py"
        assert f"def {test}(" in path.read_text(), f"{file}::{test}"


# --- Not in the list, but of every method -----------------------------------------------------


class Traceable:
    """A linear network that records nothing, so that a graph can be made of it."""

    def __init__(self, network: LinearNetwork) -> None:
        self.network = network

    def __call__(self, images, *, training, update_stats):
        x = tf.reshape(images, [images.shape[0], -1])
        n = self.network
        feature_map = tf.reshape(x @ n.map_weights, [-1, 2, 2, 3])
        return Output(x @ n.weights, x @ n.feature_weights, feature_map)


@pytest.mark.parametrize("name", EVERY)
def test_a_graph_of_the_step_gives_what_running_it_gives(name):
    method = method_of(name)
    batch, network = batch_of(method), Traceable(network_of(method))
    context = context_of(method, images=1e6, progress=0.3)
    context.teacher = lambda images: Output(
        *map(tf.stop_gradient, network(images, training=True, update_stats=False))
    )

    def step():
        result = method.losses(batch, network, context)
        return dict(result.terms), dict(result.metrics), dict(result.state)

    one, two = (tf.nest.flatten(made()) for made in (step, tf.function(step)))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
