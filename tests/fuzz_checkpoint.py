"""Mutate a real checkpoint in every way we can think of, and load what comes out.

    python tests/fuzz_checkpoint.py --mutations 10000

Each mutation must either load and decode, or be refused with CheckpointError; nothing may
crash, hang, run code or allocate beyond a small multiple of the file.
"""

import argparse
import io
import multiprocessing
import os
import pickle
import random
import resource
import tempfile
import warnings
import zipfile
from pathlib import Path

import torch

SECONDS = 20  # a load that takes longer hangs
MEMORY = 512 * 2**20  # bytes of address space a load may add; the file has 0.1 million
CHUNK = 250  # mutations for one child process, so that a crash costs one chunk


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts = fuzz(args.mutations, args.seed)
    print("tried {tried}, refused {refused}, loaded {loaded}, failed {failed}".format(**counts))
    return 1 if counts["failed"] else 0


def fuzz(mutations, seed):
    counts = {"tried": 0, "refused": 0, "loaded": 0, "failed": 0}
    context = multiprocessing.get_context("spawn")
    for first in range(0, mutations, CHUNK):
        size = min(CHUNK, mutations - first)
        results = context.SimpleQueue()
        child = context.Process(target=load_all, args=(seed + first, size, results))
        child.start()
        child.join(timeout=60 + SECONDS)
        if child.exitcode != 0:
            child.kill()
            print(f"mutations {first} to {first + size}: the process ended with {child.exitcode}")
            counts["failed"] += 1
        while not results.empty():
            outcome, detail = results.get()
            counts[outcome] += 1
            counts["tried"] += 1
            if outcome == "failed":
                print(detail)
    return counts


def load_all(seed, count, results):
    """In a process of its own: load ``count`` mutations, and put (outcome, detail) of each into results."""
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mixture import sample_mixture
    from support.errors import CheckpointError, UserError
    from support.runs import mixture_of, open_model

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's, on odd tensors
    original = real_checkpoint()
    rng = random.Random(seed)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for i in range(count):
            mutate = rng.choice(MUTATIONS)
            Path("vae.pt").write_bytes(mutate(original, rng))
            try:
                model, run, path = open_model(Path("vae.pt"), torch.device("cpu"))
                images = model.decode_all(torch.zeros(2, model.config["latent_dim"]))
                outcome = "loaded" if images.shape == (2, 1, 28, 28) else "failed"
                if run.mixture is not None:
                    sample_mixture(mixture_of(run, path), torch.zeros(2, dtype=torch.long))
                detail = f"{mutate.__name__}, seed {seed}, number {i}: {images.shape}"
            except (CheckpointError, UserError):
                outcome, detail = "refused", ""
            except BaseException as error:
                outcome, detail = "failed", f"{mutate.__name__}, seed {seed}, number {i}: {error!r}"
            if Path("owned").exists():
                outcome, detail = "failed", f"{mutate.__name__}, seed {seed}, number {i}: code was run"
                Path("owned").unlink()
            results.put((outcome, detail))


def real_checkpoint():
    """A small checkpoint as train.py writes it, optimiser and mixture included."""
    from mixture import fit_mixture
    from model import ConvVAE, vae_loss
    from settings import Settings
    from support.checkpoint import Run, save_checkpoint

    torch.manual_seed(0)
    model = ConvVAE(latent_dim=4, channels=(2, 3, 4), hidden_dim=16)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.rand(8, 1, 28, 28)
    logits, mu, logvar = model(x)
    vae_loss(logits, x, mu, logvar)[0].backward()
    optimizer.step()
    row = {"epoch": 1, "train_loss": 1.0, "test_loss": 1.0, "test_bce": 0.5, "test_kld": 0.5}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vae.pt"
        mixture = fit_mixture(torch.randn(60, 4), torch.arange(60) % 10)
        run = Run(
            Settings(epochs=2, batch_size=8, latent_dim=4),
            source="full",
            classes=list("0123456789"),  # as many as the mixture has, or nothing would load
            history=[row],
            optimizer=optimizer.state_dict(),
            mixture=mixture,
        )
        save_checkpoint(path, model, run)
        return path.read_bytes()


def flip_bits(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut_tail(data, rng):
    return data[: rng.randrange(len(data))]


def drop_middle(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 2000) :]


def rezip(data, change):
    """The archive with its entries changed and its check-sums right: made by somebody, not by accident."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as changed:
        for entry in archive.infolist():
            content = change(entry.filename, archive.read(entry))
            if content is not None:
                changed.writestr(entry.filename, content)
    return out.getvalue()


def flip_pickle(data, rng):
    return rezip(
        data, lambda name, content: flip_bits(content, rng) if name.endswith("data.pkl") else content
    )


def splice_pickle(data, rng):
    def change(name, content):
        if not name.endswith("data.pkl"):
            return content
        a, b = sorted(rng.randrange(len(content)) for _ in range(2))
        return content[:a] + rng.choice([b"", content[b : b + b - a], rng.randbytes(b - a)]) + content[b:]

    return rezip(data, change)


def damage_storage(data, rng):
    def change(name, content):
        if "/data/" not in name or rng.random() > 0.1:
            return content
        return rng.choice([None, b"", content[: len(content) // 2], rng.randbytes(len(content)), content * 2])

    return rezip(data, change)


def resaved(data, change):
    """What torch.save makes of the checkpoint's content after ``change``."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    content = change(content) or content
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def wrong_tensor(data, rng):
    def change(content):
        name = rng.choice(list(content["model"]))
        tensor = content["model"][name]
        content["model"][name] = rng.choice(
            [
                tensor[..., None],
                tensor.new_zeros(1).expand(2**40),
                tensor.new_zeros(()).expand(tensor.shape),
                tensor.to(torch.complex64),
                tensor.to(torch.int64),
                tensor.to(torch.float16),
                tensor.double() * float("nan"),
                torch.empty(tensor.shape, device="meta"),
                torch.sparse_coo_tensor(size=tensor.shape),
                tensor.tolist(),
                None,
                "weights",
            ]
        )

    return resaved(data, change)


def swapped_tensors(data, rng):
    def change(content):
        a, b = rng.sample(list(content["model"]), 2)
        content["model"][a], content["model"][b] = content["model"][b], content["model"][a]

    return resaved(data, change)


ODD = [
    None,
    0,
    -1,
    1,
    10**9,
    10**30,
    2**63,
    1.5,
    float("nan"),
    "x",
    "",
    [],
    {},
    [1, 2],
    [10**9] * 3,
    True,
    b"x",
    (1, 2, 3),
]


def wrong_value(data, rng):
    def change(content):
        parts = [content, content["config"], content["args"], content["history"][0], content["mixture"]]
        where = rng.choice(parts)
        where[rng.choice(list(where))] = rng.choice(ODD)

    return resaved(data, change)


def missing_value(data, rng):
    def change(content):
        where = rng.choice(
            [content, content["config"], content["args"], content["history"][0], content["model"]]
        )
        del where[rng.choice(list(where))]

    return resaved(data, change)


class Call:
    """Pickles as a call that would leave a file behind."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def calling_pickle(data, rng):
    call = rng.choice(
        [Call(os.system, "touch owned"), Call(eval, "open('owned', 'w')"), Call(exec, "open('owned', 'w')")]
    )
    if rng.random() < 0.3:
        return pickle.dumps({"format": "conv-vae", "model": call})
    return resaved(data, lambda content: content | {rng.choice(["model", "config", "args", "extra"]): call})


MUTATIONS = [
    *(flip_bits, cut_tail, drop_middle, flip_pickle, flip_pickle, splice_pickle, damage_storage),
    *(wrong_tensor, swapped_tensors, wrong_value, wrong_value, missing_value, calling_pickle),
]


if __name__ == "__main__":
    raise SystemExit(main())
