"""Options are checked to their ranges; methods are found by name."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
from doubles import method_of

from realmix_tf.errors import UsageError
from realmix_tf.methods import base
from realmix_tf.methods.alignment import parse_distribution
from realmix_tf.methods.base import check_options
from realmix_tf.methods.mixmatch import MixMatch
from realmix_tf.methods.realmix import RealMix
from realmix_tf.methods.registry import FILES, get_method
from realmix_tf.methods.supervised import Supervised

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("config", "flag"),
    [
        (MixMatch.Config(nu=0), "--nu"),
        (MixMatch.Config(beta=0.0), "--beta"),
        (MixMatch.Config(beta=NAN), "--beta"),
        (MixMatch.Config(w_match=-1.0), "--w_match"),
        (MixMatch.Config(w_match=NAN), "--w_match"),
        (MixMatch.Config(w_match=INF), "--w_match"),
        (MixMatch.Config(temperature=0.0), "--temperature"),
        (MixMatch.Config(temperature=1.5), "--temperature"),
        (MixMatch.Config(warmup_kimg=-1.0), "--warmup_kimg"),
        (RealMix.Config(percent_mask=1.0), "--percent_mask"),
        (RealMix.Config(percent_mask=-0.5), "--percent_mask"),
        (RealMix.Config(percent_mask=-2.0), "--percent_mask"),
        (RealMix.Config(percent_mask=NAN), "--percent_mask"),
        (RealMix.Config(confidence_mask=1.0), "--confidence_mask"),
        (RealMix.Config(tsa="linear"), "--tsa"),
        (Supervised.Config(smoothing=1.1), "--smoothing"),
        *(
            (get_method(name).Config(**{option: value}), f"--{option}")
            for name, option, values in (
                ("pseudo_label", "threshold", (-0.1, 1.1, NAN)),
                ("pseudo_label", "consistency_weight", (-1.0, INF)),
                ("pi_model", "warmup_pos", (-0.1, 1.1)),
                ("mean_teacher", "consistency_weight", (-1.0,)),
                ("vat", "vat", (-1.0,)),
                ("vat", "vat_eps", (0.0, -6.0)),
                ("vat", "vat_xi", (0.0, NAN)),
                ("vat", "entmin_weight", (-0.06,)),
                ("vat", "divergence", ("backward",)),
                ("ict", "beta", (0.0,)),
                ("mixup", "beta", (0.0, INF)),
                ("mixmatch", "mixmode", ("xy.xy", "")),
                ("remixmatch", "K", (0, 17)),
                ("remixmatch", "redux", ("first",)),
                ("remixmatch", "w_rot", (-0.5,)),
                ("remixmatch", "w_kl", (-0.5,)),
                ("remixmatch", "temperature", (0.0, 2.0)),
                ("fixmatch", "confidence", (-0.1, 1.5, NAN)),
                ("fixmatch", "uratio", (0,)),
                ("fixmatch", "wu", (-1.0,)),
                ("uda", "temperature", (0.0,)),
                ("uda", "tsa", ("linear", "no")),
                ("uda", "tsa_kimg", (-1.0,)),
                ("uda", "we", (-1.0,)),
                ("flexmatch", "mapping", ("cubic",)),
                ("freematch", "w_fair", (-0.01,)),
                ("freematch", "quantile", (-0.5, 1.1)),
                ("freematch", "threshold_decay", (1.0, -0.1)),
                ("freematch", "clip_low", (-0.1,)),
                ("freematch", "clip_high", (1.1,)),
                ("softmatch", "n_sigma", (0.0,)),
                ("softmatch", "statistics", ("both",)),
                ("softmatch", "statistics_decay", (1.0,)),
                ("adamatch", "confidence", (1.1,)),
                ("dash", "gamma", (0.9,)),
                ("dash", "start", (0.5,)),
                ("dash", "rho_min", (-0.1,)),
                ("dash", "decay_kimg", (0.0,)),
                ("simmatch", "temperature", (0.0,)),
                ("simmatch", "smoothing", (1.1,)),
                ("simmatch", "proj_size", (0,)),
                ("comatch", "edge", (1.1,)),
                ("comatch", "queue_batch", (0,)),
                ("crmatch", "w_dist", (-1.0,)),
                ("defixmatch", "wu", (-0.5,)),
            )
            for value in values
        ),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_a_usage_error_that_names_the_flag(config, flag):
    with pytest.raises(UsageError, match=flag):
        check_options(config)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__.rpartition(".")[2])
def test_defaults_are_in_range_and_every_option_is_documented(file):
    method = get_method(file.__name__.rpartition(".")[2])
    check_options(method.Config())
    for item in fields(method.Config):
        assert item.metadata["help"].endswith(".")


RECIPE_A, RECIPE_B = ("adam", 0.002, 1.0, 0.02, "decoupled"), ("sgd", 0.03, 0.19509, 5e-4, "l2")
RAMP = {"warmup_pos": 0.4}
FAMILY = {"uratio": 7, "wu": 1}
# Method: options, recipe, augmentation of labelled, weak and strong views.
PUBLISHED = {
    "supervised": ({"smoothing": 0.001}, RECIPE_A, "d.d.d"),
    "mixup_supervised": ({"beta": 0.5}, ("adam", 0.002, 1.0, 0.002, "decoupled"), "d.d.d"),
    "pseudo_label": ({"consistency_weight": 1, "threshold": 0.95} | RAMP, RECIPE_A, "d.d.d"),
    "pi_model": ({"consistency_weight": 10} | RAMP, RECIPE_A, "d.d.d"),
    "mean_teacher": ({"consistency_weight": 50} | RAMP, RECIPE_A, "d.d.d"),
    "vat": (
        {"vat": 0.3, "vat_eps": 6, "vat_xi": 1e-6, "entmin_weight": 0.06} | RAMP,
        RECIPE_A,
        "d.d.d",
    ),
    "ict": ({"beta": 0.5, "consistency_weight": 50} | RAMP, RECIPE_A, "d.d.d"),
    "mixup": ({"beta": 0.75}, RECIPE_A, "d.d.d"),
    "mixmatch": (
        {"nu": 2, "beta": 0.5, "w_match": 100, "temperature": 0.5, "warmup_kimg": 1024}
        | {"mixmode": "xxy.yxy", "ema_guess": False},
        RECIPE_A,
        "d.d.d",
    ),
    "realmix": (
        {"nu": 2, "beta": 0.75, "w_match": 75, "temperature": 0.5, "warmup_kimg": 1024}
        | {"tsa": "none", "percent_mask": -1, "confidence_mask": -1},
        RECIPE_A,
        "d.d.d",
    ),
    "remixmatch": (
        {"K": 1, "beta": 0.75, "temperature": 0.5, "w_match": 1.5, "w_kl": 0.5, "w_rot": 0.5}
        | {"warmup_kimg": 1024, "redux": "1st", "use_dm": True, "use_xe": True},
        RECIPE_A,
        "cta.d.cta",
    ),
    "fixmatch": ({"confidence": 0.95} | FAMILY, RECIPE_B, "d.d.ctac"),
    "uda": (
        {"confidence": 0.8, "temperature": 0.4, "tsa": "none", "we": 0} | FAMILY,
        RECIPE_B,
        "d.d.rac",
    ),
    "flexmatch": (
        {"confidence": 0.95, "mapping": "convex", "thresh_warmup": True} | FAMILY,
        RECIPE_B,
        "d.d.rau",
    ),
    "freematch": (
        {"w_fair": 0.01, "threshold_decay": 0.999, "quantile": -1, "clip_low": 0, "clip_high": 1}
        | FAMILY,
        RECIPE_B,
        "d.d.rau",
    ),
    "softmatch": (
        {"n_sigma": 2, "statistics": "unaligned", "statistics_decay": 0.999} | FAMILY,
        RECIPE_B,
        "d.d.rau",
    ),
    "adamatch": (
        {"confidence": 0.9, "uratio": 3, "wu": 1},
        ("sgd", 0.03, 0.25, 1e-3, "l2"),
        "d.d.cta",
    ),
    # 2048 updates of 64 images, and 10 epochs of 1024.
    "dash": (
        {"gamma": 1.27, "start": 1.0001, "rho_min": 0.05, "temperature": 0.5}
        | {"warmup_kimg": 2048 * 64 / 1024, "decay_kimg": 10 * 64}
        | FAMILY,
        RECIPE_B,
        "d.d.rau",
    ),
    # An epoch is 64 kimg.
    "simmatch": (
        {"confidence": 0.95, "temperature": 0.1, "smoothing": 0.9, "w_in": 1, "proj_size": 128}
        | {"warmup_kimg": 64}
        | FAMILY,
        RECIPE_B,
        "d.d.rau",
    ),
    "comatch": (
        {"confidence": 0.95, "temperature": 0.2, "smoothing": 0.9, "edge": 0.8, "w_ctr": 1}
        | {"proj_size": 64, "queue_batch": 5}
        | FAMILY,
        RECIPE_B,
        "d.d.rau",
    ),
    "crmatch": ({"confidence": 0.95, "w_dist": 1, "w_rot": 1} | FAMILY, RECIPE_B, "d.d.rau"),
    "defixmatch": ({"confidence": 0.95, "uratio": 7, "wu": 0.5}, RECIPE_B, "d.d.rau"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_defaults(name):
    options, recipe, augment = PUBLISHED[name]
    method = get_method(name)
    for option, value in options.items():
        assert getattr(method.Config(), option) == value, option
    of = method.recipe
    found = (of.optimizer, of.lr, of.lr_final, of.wd, of.wd_mode)
    assert found[:2] + found[3:] == recipe[:2] + recipe[3:]
    assert found[2] == pytest.approx(recipe[2], abs=1e-5)
    assert method.augment == augment


def test_no_method_is_missing_from_the_table():
    assert list(PUBLISHED) == [name for name in PUBLISHED if name in base.registered()]
    assert set(PUBLISHED) == {file.__name__.rpartition(".")[2] for file in FILES}


def test_a_misspelt_method_gets_the_nearest():
    assert get_method("realmix") is RealMix
    with pytest.raises(UsageError, match="try: --method=realmix"):
        get_method("reelmix")


def test_two_methods_cannot_share_a_name(monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", {})

    @base.register("twin")
    class First(base.Method):
        pass

    with pytest.raises(ValueError, match="twin"):

        @base.register("twin")
        class Second(base.Method):
            pass

    assert base.registered() == {"twin": First}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixmatch", {"p_unlabeled": "0.5,0.5"}),
        ("realmix", {"p_unlabeled": "a,b,c,d,e"}),
        ("remixmatch", {"p_unlabeled": "1,1"}),
    ],
)
def test_expected_shares_that_do_not_fit_the_classes_are_refused_before_training(name, options):
    with pytest.raises(UsageError, match="p_unlabeled"):
        method_of(name, **options).initial_state()


def test_clips_in_the_wrong_order_are_refused():
    with pytest.raises(UsageError, match="clip_low"):
        method_of("freematch", clip_low=0.9, clip_high=0.5).check(1)
    method_of("freematch", clip_low=0.9, clip_high=0.95).check(1)


@pytest.mark.parametrize(
    ("name", "options", "labeled", "unlabeled", "ratio"),
    [
        ("supervised", {}, ["weak"], [], 1),
        ("pi_model", {}, ["weak"], ["weak0", "weak1"], 1),
        ("vat", {}, ["weak"], ["weak"], 1),
        ("mixmatch", {"nu": 3}, ["weak"], ["weak0", "weak1", "weak2"], 1),
        ("remixmatch", {"K": 2}, ["weak"], ["weak", "strong0", "strong1"], 1),
        ("fixmatch", {"uratio": 5}, ["weak"], ["weak", "strong"], 5),
        ("comatch", {}, ["weak"], ["weak", "strong0", "strong1"], 7),
        ("adamatch", {}, ["weak", "strong"], ["weak", "strong"], 3),
        ("defixmatch", {}, ["weak", "strong"], ["weak", "strong"], 7),
    ],
)
def test_views_follow_the_options(name, options, labeled, unlabeled, ratio):
    views = method_of(name, **options).views()
    assert (list(views.labeled), list(views.unlabeled)) == (labeled, unlabeled)
    assert views.ratio == ratio


def test_a_boolean_option_is_not_a_number():
    @dataclass(frozen=True)
    class Config:
        switch: bool = base.option(True, "A switch.", 5, 6)

    check_options(Config())


@pytest.mark.parametrize("text", ["", "0.5,0.5", "a,b,c", "1,-1,1", "nan,1,1", "0,0,0", "1,1,inf"])
def test_a_distribution_that_is_none_is_a_usage_error(text):
    with pytest.raises(UsageError, match="p_unlabeled"):
        parse_distribution(text, 3)


def test_a_distribution_is_normalised():
    assert parse_distribution("2, 1,1", 3).numpy().tolist() == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flag": "no"}, "'no' is not True or False (--flag)"),
        ({"flag": 1}, "1 is not True or False (--flag)"),
        ({"count": 2.5}, "2.5 is not a whole number (--count)"),
        ({"count": True}, "True is not a whole number (--count)"),
        ({"share": "0.9"}, "'0.9' is not a number (--share)"),
        ({"share": True}, "True is not a number (--share)"),
        ({"text": [0.1]}, "[0.1] is not text (--text)"),
    ],
)
def test_a_value_of_another_type_is_refused_and_named(change, words):
    @dataclass(frozen=True)
    class Config:
        flag: bool = base.option(False, "")
        count: int = base.option(2, "", 1)
        share: float = base.option(0.5, "", 0, 1)
        text: str = base.option("", "")

    check_options(Config(share=1))
    with pytest.raises(UsageError) as caught:
        check_options(Config(**change))
    assert words in str(caught.value)
