"""The scripts' command lines: flags that several of them share, and train.py's, made from its settings."""

import argparse
import dataclasses
import unicodedata
from pathlib import Path

from data_sets import DATASETS
from settings import Settings, check_bounds
from support.arrays import SUFFIXES, is_array
from support.errors import UserError
from support.terminal import CHECKPOINT, DATA_DIR, listed


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help shows every default and whose errors are one line."""

    def __init__(self, doc):
        super().__init__(description=doc, formatter_class=_HelpFormatter)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see python {self.prog} --help)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        # "(default: None)" says nothing: where there is more to say, the help itself does
        plain = action.default in (None, argparse.SUPPRESS)
        return action.help if plain else super()._get_help_string(action)


# The types of values


def number(kind, **bounds):
    """An argparse type: a number of ``kind`` (int or float) within these bounds of settings.check_bounds."""

    def parse(text):
        value = kind(text)  # where this raises ValueError, argparse names the flag
        try:
            check_bounds(value, **bounds)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # argparse says "invalid … value"
    return parse


count, positive = number(int, at_least=1), number(float, above=0)


def user_path(text):
    """An argparse type: a path, with ~ for the home folder, which no shell expands after --flag=."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name is no path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text} is in the home folder of nobody known here") from None


def file_of(suffix):
    """An argparse type: the path of a file of this kind."""

    def parse(text):
        if user_path(text).suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(f"{text} is not the name of a {suffix} file")
        return user_path(text)

    return parse


def data_set(text):
    """An argparse type: the name of a data set, or of a folder or file of one's own."""
    return text if text in DATASETS else images_path(text, f"neither one of {', '.join(DATASETS)} nor")


def images_path(text, what="not"):
    """An argparse type: a folder of images or a file of arrays, whose full path it becomes."""
    path = user_path(text).resolve()
    if not path.is_dir() and not (path.is_file() and is_array(path)):
        raise argparse.ArgumentTypeError(f"{text} is {what} a folder, nor a file ({', '.join(SUFFIXES)})")
    if not str(path).isprintable():  # which what is not UTF-8 is not, either
        raise argparse.ArgumentTypeError(f"{text!a} has a name that is not printable text: rename it")
    return str(path)


# train.py's flags


def add_settings(parser):
    """A flag for every setting, in groups. One that is not typed is not in the namespace, either."""
    own_types = {"dataset": data_set, "from_": lambda text: str(user_path(text))}
    metavars = {"dataset": "NAME", "from_": "CHECKPOINT"}
    groups = {}
    for item in dataclasses.fields(Settings):
        group, bounds = item.metadata["group"], item.metadata["bounds"]
        groups[group] = groups.get(group) or parser.add_argument_group(group)
        options = {"dest": item.name, "default": argparse.SUPPRESS, "help": item.metadata["help"]}
        if item.type is bool:
            options["action"] = "store_true"
        else:
            if item.name == "dataset":
                options["help"] = f"{', '.join(DATASETS)}, {options['help']}"
            options["help"] += f" (default: {item.default})" if item.default != "" else ""
            options["choices"] = bounds.get("choices")
            options["metavar"] = metavars.get(item.name) or {int: "N", float: "X"}.get(item.type)
            plain = str if item.type is str else number(item.type, **bounds)
            options["type"] = own_types.get(item.name, plain)
        groups[group].add_argument(flag_of(item.name), **options)


def typed_settings(args):
    """The settings that stand on the command line: {name: value}."""
    return {item.name: getattr(args, item.name) for item in dataclasses.fields(Settings) if item.name in args}


def flag_of(name):
    """The flag of the setting with this name."""
    return "--" + name.strip("_").replace("_", "-")


# Flags of several scripts

SEED = number(int, at_least=0, below=2**32)  # PyTorch's CPU generator ignores all but 32 bits
SHARED = {  # what they say of themselves, and what else argparse needs to know
    "--checkpoint": (
        f"the model to use (default: {CHECKPOINT}, else the pretrained one)",
        {"type": user_path},
    ),
    "--data-dir": (
        "folder of the data sets, downloaded when missing; packaged digits stand in without a network",
        {"type": user_path, "default": DATA_DIR},
    ),
    "--images": (
        "for a model of one's own images: where they are now, if they have moved",
        {"type": images_path, "metavar": "PATH"},
    ),
    "--seed": ("where all random numbers start", {"type": SEED, "default": 0}),
    "--device": (
        "auto: CUDA, then MPS, then CPU",
        {"default": "auto", "metavar": "{auto,cpu,cuda,cuda:N,mps}"},
    ),
}


def add_shared(parser, *flags):
    """Those of SHARED with these names."""
    for flag in flags:
        text, options = SHARED[flag]
        parser.add_argument(flag, help=text, **options)


def class_number(text, classes, flag):
    """The number of the class that ``text``, the value of ``flag``, names or numbers. Raises UserError."""
    if not classes:
        raise UserError(f"{flag} names classes, and this model's images have none: leave {flag} out")
    text = unicodedata.normalize("NFC", text)  # as the names are
    numbers = [str(number) for number in range(len(classes))]
    by_number = not set(classes) & set(numbers)  # else a number is a name, or none
    for known in (classes, numbers if by_number else []):
        if text in known:
            return known.index(text)
    in_any_case = [number for number, name in enumerate(classes) if name.lower() == text.lower()]
    if len(in_any_case) == 1:
        return in_any_case[0]
    choices = [f"0 to {numbers[-1]}"] if by_number or classes == numbers else []
    choices += [listed(classes)] if classes != numbers else []
    raise UserError(f"{flag} {text} is not one of {' or of '.join(choices)}")
