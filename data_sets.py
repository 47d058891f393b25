"""The data sets in MNIST's format that --dataset knows by name. Another one is another line of DATASETS."""

from string import ascii_lowercase, ascii_uppercase, digits
from typing import NamedTuple


class DataSet(NamedTuple):
    """A data set in MNIST's format: IDX files of 28 x 28 images and of labels, in DATA_DIR/folder/raw."""

    folder: str  # also the name of torchvision's class, if there is one to download it
    classes: list  # their names, in the order of their labels
    train: str = "train"  # how the names of its files begin: train-images-idx3-ubyte, …
    test: str = "t10k"
    transposed: bool = False  # rows and columns of its images are swapped
    first_label: int = 0


def emnist(split, classes, first_label=0):
    """A data set of EMNIST (torchvision says split), with torchvision's classes."""
    return DataSet("EMNIST", classes, f"emnist-{split}-train", f"emnist-{split}-test", True, first_label)


MERGED = [*digits, *ascii_uppercase, *"abdefghnqrt"]  # the other small letters count as capitals
DATASETS = {
    "mnist": DataSet("MNIST", list("0123456789")),
    "fashion-mnist": DataSet("FashionMNIST", ["t-shirt", "trouser", "pullover", "dress", "coat",
                                              "sandal", "shirt", "sneaker", "bag", "boot"]),
    "kmnist": DataSet("KMNIST", ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]),
    "qmnist": DataSet("QMNIST", list(digits), train="qmnist-train", test="qmnist-test"),
    "emnist-letters": emnist("letters", list(ascii_lowercase), first_label=1),  # of either case
    "emnist-balanced": emnist("balanced", MERGED),
    "emnist-bymerge": emnist("bymerge", MERGED),
    "emnist-byclass": emnist("byclass", [*digits, *ascii_uppercase, *ascii_lowercase]),
    "emnist-digits": emnist("digits", list(digits)),
    "emnist-mnist": emnist("mnist", list(digits)),
}  # fmt: skip
