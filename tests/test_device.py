"""A recorded step without a GPU: a stand-in for torch's CUDA graphs, which shows what a replay is given."""

import contextlib

import pytest
import torch

from support import device as device_module
from support import terminal
from support.device import STEPS_BEFORE, GraphedStep, graphed, timed


@pytest.fixture
def recorded(monkeypatch):
    """A function that makes a GraphedStep of a step, recorded with some inputs."""

    def recorded(step, *inputs):
        made = GraphedStep(step)

        class Graph:
            def replay(self):
                """As a GPU does it: what was recorded, where it was recorded."""
                for output, new in zip(made.outputs, step(*made.inputs), strict=True):
                    output.copy_(new)

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", contextlib.nullcontext)
        monkeypatch.setattr(made, "_on_another_stream", step)
        for _ in range(STEPS_BEFORE):
            made(*inputs)
        assert made.graph is None
        assert made(*inputs) is made.outputs
        return made

    return recorded


def test_every_input_of_a_replay_is_new(recorded):
    """Images, labels, a whole number that becomes a fraction, as beta does, and a fraction."""
    step = recorded(
        lambda x, y, beta, lr: ((x + y).sum() * beta + lr,), torch.ones(3), torch.arange(3), 0, 0.5
    )
    for x, y, beta, lr in (
        (torch.ones(3), torch.arange(3), 0.25, 1.5),
        (-torch.ones(3), torch.zeros(3), 1, 7),
    ):
        (value,) = step(x, y, beta, lr)
        assert value.item() == pytest.approx(((x + y).sum() * beta + lr).item())


def test_another_shape_is_made_as_it_comes(recorded):
    step = recorded(lambda x: (x.sum(),), torch.ones(3))
    (value,) = step(torch.ones(2))
    assert value.item() == 2 and value is not step.outputs[0]


@pytest.mark.parametrize(
    "device, capturable, recorded", [("cpu", True, False), ("cuda", False, False), ("cuda", True, True)]
)
def test_steps_are_recorded_on_a_gpu_with_an_optimizer_that_can_be(device, capturable, recorded):
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], capturable=capturable)
    step = object()
    made = graphed(step, optimizer, torch.device(device))
    assert isinstance(made, GraphedStep) if recorded else made is step


@pytest.mark.parametrize(
    "cpu_seconds, kind, policy, told",
    [
        (19, "cpu", None, False),
        (12, "cpu", None, True),
        (12, "cpu", "passive", False),
        (1, "cuda", None, False),
    ],
)
def test_a_training_that_shares_its_cores_says_so(monkeypatch, capsys, cpu_seconds, kind, policy, told):
    """Ten seconds of two threads, of which other programs take a part."""
    monkeypatch.setattr(device_module.time, "perf_counter", iter([100.0, 110.0]).__next__)
    monkeypatch.setattr(device_module.time, "process_time", iter([5.0, 5.0 + cpu_seconds]).__next__)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    terminal.warn.cache_clear()
    with timed(torch.device(kind)) as clock:
        pass
    assert clock.seconds == 10
    err = capsys.readouterr().err
    assert ("60% of the time of its 2 threads" in err and "OMP_NUM_THREADS=1 " in err) == told
    assert bool(err) == told
