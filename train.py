"""Train a ConvVAE: minimise BCE + KL, and after every epoch save all that came of it.

    python train.py                                  # 20 epochs on the best device found
    python train.py --epochs 100 --device cuda       # the run behind the numbers in the README
    python train.py --resume                         # go on after a stop, as if there had been none
    torchrun --nproc-per-node=2 train.py             # on several processes or GPUs

Every epoch writes the checkpoint and, under outputs/training/, a grid of samples from
the same fixed z, a grid of reconstructions, metrics.csv and the loss curves.
"""

import contextlib
import copy
import csv
import io
import math
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import cli
import pictures
from data import TORCHVISION_NAMES, batches, hold_out, load_dataset
from loop import EVAL_BATCH, PEAK_LR, WEIGHT_DECAY, choose_bf16, evaluate, make_optimizer, train_epoch
from mixture import fit_mixture
from model import CheckpointError, ConvVAE, save_checkpoint, write_file

# What makes a run this run: --resume takes these from the checkpoint and refuses other values.
SETTINGS = (
    *("epochs", "batch_size", "lr", "weight_decay", "latent_dim", "beta"),
    *("dropout", "binarize", "validate", "dataset", "precision", "seed"),
)

SAVED = "saved"  # torchrun's store has this key once the run it started has saved something


def parse_args(defaults=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--epochs", type=cli.positive_int, default=20, help="passes over the training images")
    parser.add_argument("--batch-size", type=cli.positive_int, default=128, help="images per step")
    parser.add_argument("--lr", type=cli.positive_float, default=PEAK_LR, help="peak learning rate")
    parser.add_argument(
        "--weight-decay",
        type=cli.non_negative_float,
        default=WEIGHT_DECAY,
        help="AdamW's, of the fully connected weights",
    )
    parser.add_argument("--latent-dim", type=cli.positive_int, default=16, help="size of the latent z")
    parser.add_argument("--beta", type=cli.non_negative_float, default=1.0, help="weight of the KL")
    parser.add_argument("--dropout", type=cli.probability, default=0.0, help="share dropped in the encoder")
    parser.add_argument(
        "--binarize",
        action="store_true",
        help="draw black or white pixels from the gray levels, anew every batch",
    )
    parser.add_argument(
        "--validate",
        action="store_true",
        help="to choose settings: hold out a sixth of the training images, test on these",
    )
    parser.add_argument(
        "--dataset", choices=list(TORCHVISION_NAMES), default="mnist", help="what to train on"
    )
    cli.add_data_dir(parser)
    cli.add_device(parser)
    cli.add_precision(parser)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the network on a CUDA GPU; elsewhere it does not pay, and is left out",
    )
    cli.add_seed(parser)
    parser.add_argument("--checkpoint", type=Path, default=cli.TRAINED, help="the file to train into")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/training"), help="folder of pictures and metrics"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint, with its settings, into its --out"
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew over an earlier checkpoint")
    parser.set_defaults(**(defaults or {}))
    args = parser.parse_args()
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    return args


def main():
    args = parse_args()
    rank, world, device, store = join_processes(cli.pick_device(args.device))
    if store and store.check([SAVED]):  # torchrun replaces a worker that died: this run is under way
        args.resume, args.overwrite = True, False
    with reserved(args.checkpoint, "--checkpoint", rank):
        args, model, state = open_run(args, device) if args.resume else new_run(args)
        with reserved(args.out, "--out", rank):
            run(args, model, state, rank, world, device, store)


@contextlib.contextmanager
def reserved(path, flag, rank):
    """Keep other trainings from writing to ``path``. A process that dies lets go of it, however it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=0) if rank == 0 else contextlib.nullcontext():
            yield
    except Timeout:
        raise cli.UserError(
            f"another training is writing {path}: wait for it, or pass another {flag}"
        ) from None


def run(args, model, state, rank, world, device, store):
    """All of the training that is not yet done, as process ``rank`` of ``world``; alone, it is 0 of 1.

    ``store`` is what torchrun's processes share; it outlives them.
    """
    bf16 = choose_bf16(args.precision, device)
    args.precision = "bf16" if bf16 else "fp32"
    if args.batch_size < world:
        raise cli.UserError(f"--batch-size {args.batch_size} gives {world} processes less than an image each")

    with first_on_its_machine(world):  # which may download: the others find it there
        train_images, train_labels, source = load_dataset(args.dataset, args.data_dir, train=True)
        if args.validate:
            (train_images, train_labels), (test_images, _) = hold_out(train_images, train_labels)
        else:
            test_images, _, _ = load_dataset(args.dataset, args.data_dir, train=False)
    if state.get("source", source) != source:
        raise cli.UserError(
            f"this run trained on the {state['source']} data set and found the {source} one: check --data-dir"
        )
    if (rarest := torch.bincount(train_labels, minlength=10).min()) < 2:
        raise cli.UserError(
            f"a class has {rarest} training images and the latent mixture needs 2 of each: check --data-dir"
        )
    train_images, test_images = train_images.to(device), test_images.to(device)

    model = model.to(device, memory_format=torch.channels_last)
    network = model  # what the training calls: the model itself, or the model in step with its peers
    if world > 1:
        if device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        network = nn.parallel.DistributedDataParallel(model)
    if args.compile and device.type == "cuda":
        network = torch.compile(network, dynamic=False)  # two shapes: the last batch is smaller
    elif args.compile and rank == 0:
        print("warning: --compile pays on a CUDA GPU only: training without it", file=sys.stderr)
    optimizer = make_optimizer(model, args.lr, args.weight_decay)
    if "optimizer" in state:
        try:
            optimizer.load_state_dict(state["optimizer"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
            raise CheckpointError(f"{args.checkpoint} is damaged: its optimiser state does not fit") from None
    history = state["history"]
    saved = len(history) if "args" in state else None  # epochs that are safe; a new run has none yet
    run_facts = {
        "args": {name: getattr(args, name) for name in SETTINGS},
        "source": source,
        "history": history,
    }
    grid_z = torch.randn(64, args.latent_dim, generator=torch.Generator().manual_seed(args.seed))
    if rank == 0:
        print(describe(model, args, device, world, source, len(train_images), len(test_images)))

    def save_epoch():
        # The checkpoint first: what is drawn from it can be drawn again, not the reverse.
        save_checkpoint(
            args.checkpoint, model, optimizer=optimizer.state_dict(), out=str(args.out), **run_facts
        )
        if store:
            store.set(SAVED, "yes")
        save_reports(args.out, history, model, grid_z, test_images)

    try:
        if rank == 0 and not state.get("finished"):
            save_epoch()  # epoch 0, or what a kill right after the last checkpoint left undrawn
        saved = len(history)
        for epoch in range(len(history) + 1, args.epochs + 1):
            start = time.perf_counter()  # a clock that never jumps
            train_loss = train_epoch(network, optimizer, train_images, args, epoch, bf16, rank, world)
            seconds = time.perf_counter() - start
            test_loss = evaluate(model, test_images, args, bf16, rank, world)
            row = {"epoch": epoch}
            for half, (bce, kld) in (("train", train_loss), ("test", test_loss)):
                row |= {f"{half}_loss": bce + args.beta * kld, f"{half}_bce": bce, f"{half}_kld": kld}
            row |= {"images_per_s": len(train_images) / seconds, "seconds": seconds}
            for name, value in row.items():
                if not math.isfinite(value):
                    raise cli.UserError(
                        f"{name} became {value} in epoch {epoch}: try a lower --lr than {args.lr}, or a "
                        f"lower --weight-decay; {args.checkpoint} still holds epoch {epoch - 1}"
                    )
            history.append(row)
            if rank == 0:
                save_epoch()
                print(report(row), flush=True)
            saved = epoch
        if rank == 0:
            finish(args, model, train_images, train_labels, run_facts)
    except (KeyboardInterrupt, cli.Terminated) as stop:
        if rank > 0 or saved is None:
            raise
        raise type(stop)(
            f"stopped; {args.checkpoint} holds epoch {saved} of {args.epochs}: add --resume to go on"
        ) from None
    if world > 1:
        dist.destroy_process_group()


def join_processes(device):
    """``(rank, world, device, store)``: who this is among the processes of torchrun, and what they share.

    Without torchrun that is ``(0, 1, device, None)``.
    """
    if "LOCAL_RANK" not in os.environ:
        return 0, 1, device, None
    if device.type == "mps":
        raise cli.UserError("several processes cannot train on MPS together: add --device cpu")
    if device.type == "cuda":
        device = cli.pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    # torchrun keeps one store through all restarts, with the addresses of the dead still in it
    # (pytorch/pytorch#135712): give every attempt keys of its own.
    store, rank, world = next(dist.rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    keys = dist.PrefixStore(f"attempt{attempt}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=keys, rank=rank, world_size=world)
    return rank, world, device, store


@contextlib.contextmanager
def first_on_its_machine(world):
    """One process of each machine goes ahead, the others follow once it is through, even if it failed."""
    ahead = os.environ.get("LOCAL_RANK", "0") == "0"
    if not ahead:
        dist.barrier()
    try:
        yield
    finally:
        if ahead and world > 1:
            dist.barrier()


def new_run(args):
    """A run that has not begun: ``(args, model, state)``."""
    if args.checkpoint.exists() and not args.overwrite:
        raise cli.UserError(
            f"{args.checkpoint} holds an earlier run: pass --resume to go on with it, "
            "--overwrite to replace it, or another --checkpoint"
        )
    torch.manual_seed(args.seed)
    return args, ConvVAE(args.latent_dim, dropout=args.dropout), {"history": []}


def open_run(args, device):
    """The run in the checkpoint: ``(args, model, state)``, args being the run's own settings."""
    if not args.checkpoint.exists():
        raise cli.UserError(f"nothing to resume at {args.checkpoint}: leave out --resume to start a run")
    model, state = cli.load_run(args.checkpoint, device)
    if state.get("finished") and "mixture" in state:
        raise cli.UserError(
            f"{args.checkpoint} holds a finished run, nothing to resume: pass --overwrite to train anew"
        )
    if set(state["args"]) != set(SETTINGS):
        raise CheckpointError(f"{args.checkpoint} is of another version of this script: train again")
    out = {"out": Path(state["out"])} if isinstance(state.get("out"), str) else {}
    args = parse_args(defaults=state["args"] | out)
    for name, before in state["args"].items():
        if (now := getattr(args, name)) != before and (name, now) != ("precision", "auto"):
            flag = "--" + name.replace("_", "-")
            raise cli.UserError(
                f"{args.checkpoint} was started with {flag} {before}, not {now}: leave {flag} out"
            )
    args.precision = state["args"]["precision"]
    return args, model, state


def describe(model, args, device, world, source, train_size, test_size):
    """One line on what was found: device, precision, data, network."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 1, 28, 28, device=device))
    parameters = sum(p.numel() for p in model.parameters())
    tested = "held-out training" if args.validate else "test"
    return (
        f"{device.type}{f' x {world}' if world > 1 else ''}, {args.precision}; {args.dataset} ({source}), "
        f"{train_size:,} training and {test_size:,} {tested} images; {parameters:,} parameters, "
        f"{counter.get_total_flops() / 1e6:.1f} MFLOP per image forward"
    )


def report(row):
    return (
        f"epoch {row['epoch']:3d}"
        f"   train {row['train_loss']:7.2f} = BCE {row['train_bce']:7.2f} + KL {row['train_kld']:6.2f}"
        f"   test {row['test_loss']:7.2f} = BCE {row['test_bce']:7.2f} + KL {row['test_kld']:6.2f}"
        f"   {row['images_per_s']:8,.0f} img/s"
    )


@torch.no_grad()
def save_reports(out, history, model, grid_z, test_images):
    """The epoch's two grids, of samples and of reconstructions under their originals, and all metrics."""
    model.eval()
    epoch = len(history)
    pictures.save_png(out / f"img_from_epoch{epoch}.png", pictures.grid(model.decode_all(grid_z), nrow=8))
    x = next(batches(test_images[:32], 32))
    recon = model.decode(model.encode(x)[0])
    pairs = zip(x.split(8), recon.split(8), strict=True)
    pictures.save_png(
        out / f"recon_from_epoch{epoch}.png",
        pictures.grid(torch.cat([row for pair in pairs for row in pair]), nrow=8),
    )
    if history:
        text = io.StringIO()
        writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_file(out / "metrics.csv", text.getvalue().encode())
        pictures.save_figure(out / "loss_curves.png", pictures.loss_curves(history), dpi=150)


def finish(args, model, images, labels, run_facts):
    """Keep what a finished run needs: its weights in half precision, the latent mixture, no optimiser.

    Half precision rounds less than the bf16 the network was trained in, and halves the file. Its
    range is smaller: a model that does not fit, which is one that went astray, stays as it is.
    """
    model.eval()
    generator = torch.Generator(images.device).manual_seed(args.seed)
    parts = []
    with torch.no_grad():
        for x in batches(images, EVAL_BATCH):
            if args.binarize:
                x = torch.bernoulli(x, generator=generator)
            parts.append(model.reparameterize(*model.encode(x), generator))
    try:
        mixture = fit_mixture(torch.cat(parts).cpu(), labels, args.seed)
    except (ValueError, torch.linalg.LinAlgError) as error:
        raise cli.UserError(
            f"the encoder's z are no data to fit a mixture to ({error}): try a lower --lr"
        ) from None
    paths = [args.out / f"img_from_epoch{epoch}.png" for epoch in range(args.epochs + 1)]
    if grids := [path for path in paths if path.exists()]:
        pictures.save_film(args.out / "film.gif", grids)
    # Last of all: a run killed before this has not finished, and --resume does the above again.
    half = copy.deepcopy(model).half()
    kept = half if all(value.isfinite().all() for value in half.state_dict().values()) else model
    save_checkpoint(args.checkpoint, kept, finished=True, mixture=mixture, **run_facts)
    print(
        f"wrote {args.checkpoint}\n"
        f"wrote {args.out}/: img_from_epoch0.png ... img_from_epoch{args.epochs}.png, recon_from_epoch*.png, "
        "metrics.csv, loss_curves.png, film.gif\n"
        + cli.next_step(None if args.checkpoint == cli.TRAINED else args.checkpoint, "generate", "evaluate")
    )


if __name__ == "__main__":
    with cli.user_errors():
        main()
