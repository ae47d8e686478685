"""Options are checked to their ranges; methods are found by name."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from realmix_tf.errors import UsageError
from realmix_tf.methods import base
from realmix_tf.methods.base import check_options
from realmix_tf.methods.mixmatch import MixMatch, parse_distribution
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


def test_the_published_defaults():
    mixmatch, realmix = MixMatch.Config(), RealMix.Config()
    assert (mixmatch.nu, mixmatch.beta, mixmatch.w_match) == (2, 0.5, 100)
    assert (mixmatch.temperature, mixmatch.warmup_kimg) == (0.5, 1024)
    assert (realmix.nu, realmix.beta, realmix.w_match) == (2, 0.75, 75)
    assert (realmix.tsa, realmix.percent_mask, realmix.confidence_mask) == ("none", -1, -1)
    assert Supervised.Config().smoothing == 0.001
    for method in (MixMatch, RealMix, Supervised):
        assert (method.recipe.lr, method.recipe.wd) == (0.002, 0.02)


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
