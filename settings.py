"""Every setting of a run, once: name, type, default, help and bounds.

train.py makes a flag of each field, the checkpoint keeps its value, and --resume takes it from there.
A new setting is one line here; one in the group "network" must be an argument of ConvVAE, too, and in
its config.
"""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from data_sets import DATASETS


def setting(default, help, group="training", **bounds):
    """A field of Settings; the bounds are those of check_bounds."""
    return field(default=default, metadata={"help": help, "group": group, "bounds": bounds})


def check_bounds(value, at_least=-math.inf, above=-math.inf, below=2**31, multiple_of=None, choices=None):
    """Raise ValueError unless ``value`` is within these bounds; NaN is within none."""
    if choices is not None:
        checks = {f"one of {', '.join(choices)}": value in choices}
    else:
        checks = {
            f"at least {at_least}": value >= at_least,
            f"above {above}": value > above,
            f"at most {below - 1}" if type(value) is int else f"below {below}": value < below,
            f"a multiple of {multiple_of}": multiple_of is None or value % multiple_of == 0,
        }
    for bound, holds in checks.items():
        if not holds:
            raise ValueError(f"{value} is not {bound}")


@dataclass(frozen=True)
class Settings:
    """The settings of a run. Raises ValueError where one is out of bounds or two exclude each other."""

    latent_dim: int = setting(16, "size of the latent z", "network", at_least=1)
    dropout: float = setting(0.0, "share of encoder maps and units to drop", "network", at_least=0, below=1)
    image_size: int = setting(
        28, "side of a folder's images", "network", at_least=16, below=65, multiple_of=4
    )

    epochs: int = setting(20, "passes over the training images", at_least=1, below=10**6)
    batch_size: int = setting(128, "images per step, of all processes together", at_least=1)
    lr: float = setting(4e-3, "peak learning rate", above=0)
    weight_decay: float = setting(0.1, "AdamW's, of the fully connected layers only", at_least=0)
    beta: float = setting(1.0, "weight of the KL", at_least=0)
    importance_samples: int = setting(1, "z per image; above 1, importance-weighted bound", at_least=1)
    precision: str = setting("auto", "auto: bf16 where the hardware has it", choices=["auto", "fp32", "bf16"])
    seed: int = setting(0, "seed of all random numbers", at_least=0, below=2**32)
    from_: str = setting("", "start from this trained model, on the images it was trained on")

    # support/flags.py puts the names of DATASETS before this help
    dataset: str = setting("mnist", "or a folder of images or of folders of them, or an array file", "data")
    invert: bool = setting(False, "a folder's images are dark ink on light paper", "data")
    skip_bad: bool = setting(False, "leave out a folder's files that cannot be read", "data")
    validate: bool = setting(False, "hold out a sixth of the training images, and test on these", "data")
    binarize: bool = setting(False, "draw black or white pixels from gray levels, anew every batch", "data")
    binarize_epochs: int = setting(0, "--binarize in the first N epochs; tests stay gray", "data", at_least=0)
    move_epochs: int = setting(0, "shift, turn and scale images in the first N epochs", "data", at_least=0)
    augment: float = setting(
        0.0, "such moves X times as far, in all epochs; the network is told", "data", at_least=0, below=20
    )

    def __post_init__(self):
        for item in fields(self):
            if item.metadata["bounds"]:
                check_bounds(getattr(self, item.name), **item.metadata["bounds"])
        if self.importance_samples > 1 and self.beta != 1:
            raise ValueError("--beta weighs the ELBO's KL, and --importance-samples trains on another bound")
        if self.binarize and self.binarize_epochs:
            raise ValueError("--binarize draws the pixels of every epoch: leave --binarize-epochs out")
        if self.augment and (self.move_epochs or self.importance_samples > 1):
            raise ValueError("--augment goes with neither --move-epochs nor --importance-samples")
        if self.binarize_epochs >= self.epochs:
            raise ValueError(
                f"--binarize-epochs {self.binarize_epochs} is not less than --epochs {self.epochs}"
            )
        if not self.own_images and (self.image_size != 28 or self.invert or self.skip_bad):
            raise ValueError(
                f"--image-size, --invert and --skip-bad are for a folder, and not for {self.dataset}"
            )

    @property
    def network_arguments(self):
        """The settings that are arguments of ConvVAE, {name: value}."""
        names = [item.name for item in fields(self) if item.metadata["group"] == "network"]
        return {name: getattr(self, name) for name in names}

    @property
    def test_split(self):
        """The split that the run is tested on."""
        return "validation" if self.validate else "test"

    @property
    def own_images(self):
        """Whether ``dataset`` is a folder or a file of one's own, and no name in DATASETS."""
        return self.dataset not in DATASETS

    @property
    def dataset_name(self):
        """What to call the data set: without the path to its folder."""
        return Path(self.dataset).name if self.own_images else self.dataset
