"""What a training run is, as data; readable without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.errors import UsageError
from realmix_tf.methods.annealing import KIMG
from realmix_tf.options import check_options, option

PRECISIONS = ("auto", "float32", "mixed_bfloat16")
OPTIMIZERS = ("adam", "sgd")
DECAYS = ("decoupled", "l2")


@dataclass(frozen=True)
class TrainSettings:
    """The part of a run that is the same for every method; each field is a flag.

    ``optimizer`` to ``wd_mode`` default to the method's ``Recipe``.
    """

    batch: int = option(64, "Labelled images an update, over all devices.", 1, 1 << 16)
    optimizer: str = option("adam", "Optimiser.", choices=OPTIMIZERS)
    lr: float = option(0.002, "Learning rate at the start.", 0)
    lr_final: float = option(
        1.0, "Its share at the end, reached along a cosine; 1 keeps it constant.", 0, 1
    )
    momentum: float = option(0.9, "Nesterov momentum of sgd.", 0, 0.999999)
    wd: float = option(0.02, "Weight decay of kernels.", 0)
    wd_mode: str = option(
        "decoupled",
        "decoupled shrinks kernels by wd·lr after each update, l2 adds wd·Σv²/2 to the loss.",
        choices=DECAYS,
    )
    ema: float = option(0.999, "Decay of the averaged weights that are evaluated.", 0, 0.999999)
    train_kimg: float = option(65536.0, "Length in thousands (1024) of labelled images.", 0)
    report_kimg: float = option(64.0, "Evaluate every so many thousand (1024) labelled images.", 0)
    save_kimg: float = option(64.0, "Save every so many thousand (1024) labelled images.", 0)
    keep_ckpt: int = option(50, "Checkpoints to keep besides the best by validation.", 1)
    epochs: int = option(1024, "Stop after so many report periods.", 1)
    seed: int = option(0, "Seed of the weights, the order and the augmentation.", 0, 2**31 - 1)
    precision: str = option(
        "auto", "auto is bfloat16 where the processor has units for it.", choices=PRECISIONS
    )
    devices: int = option(
        1, "GPUs that share each batch; without a GPU, as many parts of the processor.", 1, 256
    )
    augment: str = option(
        "auto",
        "Augmentation codes labelled.weak.strong such as d.d.rac, or the weak policy that d stands "
        "for; auto is the method's codes with the dataset's published weak policy.",
    )
    adepth: int = option(2, "CTAugment: operations an image.", 1, 8)
    adecay: float = option(0.99, "CTAugment: decay of its rates.", 0, 0.999999)
    ath: float = option(
        0.8, "CTAugment: least rate, as share of the best, of a strength that is still used.", 0, 1
    )
    shuffle: int = option(
        8192, "0 reads the images in file order; any other number shuffles every epoch whole.", 0
    )

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("train_kimg", "report_kimg", "save_kimg"):
            if self.updates(getattr(self, name)) < 1:
                raise UsageError(
                    f"{getattr(self, name)} kimg is less than one update of {self.batch} images",
                    f"--{name}",
                    "a larger number",
                )

    def updates(self, kimg: float) -> int:
        """Whole updates in ``kimg`` thousand (1024) labelled images."""
        return round(kimg * KIMG) // self.batch

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return min(self.updates(self.train_kimg), self.epochs * self.updates(self.report_kimg))
