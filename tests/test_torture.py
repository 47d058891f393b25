"""A few rounds of what tests/survive.py and tests/fuzz_checkpoint.py do thousands of times when asked."""

import random

from fuzz_checkpoint import fuzz
from survive import survive


def test_killed_trainings_end_as_if_nobody_had_killed_them(data_dir, stopped):
    assert survive(3, data_dir, stopped.whole, seconds=6, rng=random.Random(0)) == (3, 3)


def test_mutated_checkpoints_are_refused_or_behave():
    counts = fuzz(250, seed=0)
    assert counts["failed"] == 0
    assert counts["tried"] == counts["refused"] + counts["loaded"] == 250
    assert counts["refused"] > 100
