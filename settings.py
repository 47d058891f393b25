"""The settings of a training run, with their defaults.

They are train.py's flags, are saved in the checkpoint, and --resume takes them from there. A new
one needs a line here and a flag in train.py; with the name of an argument of ConvVAE, it is passed on.
"""

from dataclasses import dataclass
from pathlib import Path

from mnist import CLASS_NAMES


@dataclass(frozen=True)
class Settings:
    """The settings of a run."""

    epochs: int = 20  # passes over the training images
    batch_size: int = 128  # images per step, of all processes together
    lr: float = 4e-3  # the learning rate's peak
    weight_decay: float = 0.1  # AdamW's, of the fully connected weights
    latent_dim: int = 16
    beta: float = 1.0  # weight of the KL
    importance_samples: int = 1  # more: the importance-weighted bound, not the ELBO
    dropout: float = 0.0  # in the encoder
    binarize: bool = False  # black or white pixels, drawn from the gray levels
    binarize_epochs: int = 0  # such pixels in this many epochs at first, then the gray levels
    move_epochs: int = 0  # images moved a little in this many epochs at first, then as they are
    validate: bool = False  # train without the validation split, and test on it
    dataset: str = "mnist"  # a name that mnist.py knows, or a folder of images
    image_size: int = 28  # pixels along each side
    invert: bool = False  # a folder's images are dark ink on light paper
    skip_bad: bool = False  # leave out a folder's files that cannot be read
    precision: str = "fp32"  # or "bf16": train.py chooses by the device
    seed: int = 0
    from_: str = ""  # the checkpoint of the model it started from, if it did

    @property
    def test_split(self):
        """The split that the run is tested on."""
        return "validation" if self.validate else "test"

    def binarizes(self, epoch):
        """Whether the images of this epoch, from 1, are trained on in black and white."""
        return self.binarize or epoch <= self.binarize_epochs

    def moves(self, epoch):
        """Whether the images of this epoch, from 1, are moved a little."""
        return epoch <= self.move_epochs

    @property
    def of_folder(self):
        """Whether the run trains on a folder of images."""
        return self.dataset not in CLASS_NAMES

    @property
    def dataset_name(self):
        """What to call the data set: without the way to its folder."""
        return Path(self.dataset).name if self.of_folder else self.dataset
