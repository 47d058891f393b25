"""Train a ConvVAE: minimise BCE + KL, and after every epoch save all that came of it.

    python train.py                                  # 20 epochs on the best device found
    python train.py --epochs 100 --device cuda       # the run behind the numbers in the README
    python train.py --resume                         # go on after a stop, as if there had been none

Every epoch writes the checkpoint and, under outputs/training/, a grid of samples from
the same fixed z, a grid of reconstructions, metrics.csv and the loss curves.
"""

import csv
import io
import math
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

import cli
import pictures
from data import batches, load_dataset
from model import ConvVAE, load_checkpoint, save_checkpoint, vae_loss, vae_terms, write_file

WARMUP_STEPS = 200  # of linear learning-rate warm-up; a tenth of the run where that is less
FINAL_LR = 0.01  # the cosine ends at this share of the peak
EVAL_BATCH = 1000
# What makes a run this run: --resume takes these from the checkpoint and refuses other values.
SETTINGS = (
    *("epochs", "batch_size", "lr", "latent_dim", "beta", "dropout"),
    *("binarize", "dataset", "precision", "seed"),
)


def parse_args(defaults=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--epochs", type=cli.positive_int, default=20, help="passes over the training images")
    parser.add_argument("--batch-size", type=cli.positive_int, default=128, help="images per step")
    parser.add_argument("--lr", type=cli.positive_float, default=2e-3, help="peak learning rate")
    parser.add_argument("--latent-dim", type=cli.positive_int, default=32, help="size of the latent z")
    parser.add_argument("--beta", type=cli.non_negative_float, default=1.0, help="weight of the KL")
    parser.add_argument("--dropout", type=cli.probability, default=0.1, help="share dropped in the encoder")
    parser.add_argument(
        "--binarize",
        action="store_true",
        help="draw black or white pixels from the gray levels, anew every batch",
    )
    cli.add_dataset(parser, "mnist", "what to train on")
    cli.add_data_dir(parser)
    cli.add_device(parser)
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="auto: bf16 autocast where the hardware has bf16 instructions, else fp32",
    )
    cli.add_seed(parser)
    parser.add_argument("--checkpoint", type=Path, default=cli.TRAINED, help="the file to train into")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/training"), help="folder of pictures and metrics"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, with its settings")
    parser.add_argument("--overwrite", action="store_true", help="start anew over an earlier checkpoint")
    parser.set_defaults(**(defaults or {}))
    args = parser.parse_args()
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    return args


def main():
    args = parse_args()
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{args.checkpoint}.lock", timeout=0)
    try:
        with lock:  # the system lets go of it when a process dies, however it dies
            run(args)
    except Timeout:
        raise cli.UserError(
            f"another training is writing {args.checkpoint}: wait for it, or pass another --checkpoint"
        ) from None


def run(args):
    device = cli.pick_device(args.device)
    if args.resume:
        args, model, state = open_run(args, device)
    elif args.checkpoint.exists() and not args.overwrite:
        raise cli.UserError(
            f"{args.checkpoint} holds an earlier run: pass --resume to go on with it, "
            "--overwrite to replace it, or another --checkpoint"
        )
    else:
        torch.manual_seed(args.seed)
        model, state = ConvVAE(latent_dim=args.latent_dim, dropout=args.dropout), {"history": []}
    bf16 = choose_bf16(args.precision, device)
    args.precision = "bf16" if bf16 else "fp32"

    train_images, _, source = load_dataset(args.dataset, args.data_dir, train=True)
    test_images, _, _ = load_dataset(args.dataset, args.data_dir, train=False)
    if state.get("source", source) != source:
        raise cli.UserError(
            f"this run trained on the {state['source']} data set and found the {source} one: check --data-dir"
        )
    train_images, test_images = train_images.to(device), test_images.to(device)

    model = model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0, fused=device.type != "mps")
    if args.resume:
        optimizer.load_state_dict(state["optimizer"])
    history = state["history"]
    settings = {name: getattr(args, name) for name in SETTINGS}
    print(
        f"{device.type}, {args.precision}; {args.dataset} ({source}): {len(train_images):,} training and "
        f"{len(test_images):,} test images; {sum(p.numel() for p in model.parameters()):,} parameters"
    )
    grid_z = torch.randn(64, args.latent_dim, generator=torch.Generator().manual_seed(args.seed)).to(device)
    try:
        # Epoch 0's pictures, or those that a kill right after the last checkpoint left undrawn.
        save_pictures(args.out, len(history), model, grid_z, test_images)
        if history:
            save_metrics(args.out, history)
        for epoch in range(len(history) + 1, args.epochs + 1):
            start = time.perf_counter()  # a clock that never jumps
            train_loss = train_epoch(model, optimizer, train_images, args, epoch, bf16)
            seconds = time.perf_counter() - start
            test_loss = evaluate(model, test_images, args, bf16)
            row = {"epoch": epoch}
            for half, (bce, kld) in (("train", train_loss), ("test", test_loss)):
                row |= {f"{half}_loss": bce + args.beta * kld, f"{half}_bce": bce, f"{half}_kld": kld}
            row |= {"images_per_s": len(train_images) / seconds, "seconds": seconds}
            if not all(map(math.isfinite, row.values())):
                raise cli.UserError(
                    f"the loss became {row['train_loss']} in epoch {epoch}: try a lower --lr than {args.lr}; "
                    + last_good(args, history)
                )
            history.append(row)
            # The checkpoint first: what is drawn from it can be drawn again, not the reverse.
            save_checkpoint(
                args.checkpoint,
                model,
                optimizer=optimizer.state_dict(),
                args=settings,
                source=source,
                history=history,
            )
            save_metrics(args.out, history)
            save_pictures(args.out, epoch, model, grid_z, test_images)
            print(report(row), flush=True)
    except (KeyboardInterrupt, cli.Terminated) as stop:
        raise type(stop)(f"stopped; {last_good(args, history)}") from None
    finish(args, model, settings, source, history)


def open_run(args, device):
    """The run in the checkpoint: ``(args, model, state)``, args being the run's own settings."""
    if not args.checkpoint.exists():
        raise cli.UserError(f"nothing to resume at {args.checkpoint}: leave out --resume to start a run")
    model, state = load_checkpoint(args.checkpoint, device)
    if "optimizer" not in state:
        raise cli.UserError(
            f"{args.checkpoint} holds a finished run, nothing to resume: pass --overwrite to train anew"
        )
    args = parse_args(defaults=state["args"])
    for name, before in state["args"].items():
        if (now := getattr(args, name)) != before and (name, now) != ("precision", "auto"):
            flag = "--" + name.replace("_", "-")
            raise cli.UserError(
                f"{args.checkpoint} was started with {flag} {before}, not {now}: leave {flag} out"
            )
    return args, model, state


def choose_bf16(precision, device):
    """Whether to train in bf16: where asked for, or where the hardware has it in silicon."""
    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Without these instructions a CPU emulates bf16, many times slower than float32.
        capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        capable = False
    return precision == "bf16" or (precision == "auto" and capable)


def learning_rate(step, total_steps, peak):
    """Linear warm-up to ``peak``, then a cosine down to FINAL_LR of it at the last step."""
    warmup = min(WARMUP_STEPS, total_steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * (FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * progress)))


def train_epoch(model, optimizer, images, args, epoch, bf16):
    """One pass over the images; returns the mean ``(bce, kld)``, nats per image.

    Everything random follows from the seed and the epoch's number, so an epoch is the
    same whether or not the ones before it ran in this process.
    """
    model.train()
    torch.manual_seed(args.seed + (epoch << 32))
    steps = math.ceil(len(images) / args.batch_size)
    order = torch.randperm(len(images), device=images.device)
    sums = torch.zeros(2, device=images.device)
    shown = time.perf_counter()
    seen = 0
    with tqdm(
        total=len(images), desc=f"epoch {epoch}/{args.epochs}", unit="img", unit_scale=True, leave=False
    ) as bar:
        for step, x in enumerate(batches(images, args.batch_size, order), (epoch - 1) * steps):
            if args.binarize:
                x = torch.bernoulli(x)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.epochs * steps, args.lr)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
                logits, mu, logvar = model(x)
            loss, bce, kld = vae_loss(logits, x, mu, logvar, args.beta)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            sums += torch.stack([bce, kld]).detach() * len(x)
            seen += len(x)
            # Numbers stay on the device: asking for them makes it wait, so once a second will do.
            if (now := time.perf_counter()) - shown > 1:
                bce_so_far, kld_so_far = (sums / seen).tolist()
                bar.set_postfix_str(f"loss {bce_so_far + args.beta * kld_so_far:.2f}", refresh=False)
                bar.update(seen - bar.n)
                shown = now
    return tuple((sums / len(images)).tolist())


@torch.no_grad()
def evaluate(model, images, args, bf16):
    """Mean ``(bce, kld)`` over the images, z sampled: the same draw every epoch."""
    model.eval()
    generator = torch.Generator(images.device).manual_seed(args.seed)
    sums = torch.zeros(2, device=images.device)
    for x in batches(images, EVAL_BATCH):
        if args.binarize:
            x = torch.bernoulli(x, generator=generator)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits, mu, logvar = model(x, generator)
        sums += torch.stack(vae_terms(logits, x, mu, logvar)).sum(1)
    return tuple((sums / len(images)).tolist())


def report(row):
    return (
        f"epoch {row['epoch']:3d}"
        f"   train {row['train_loss']:7.2f} = BCE {row['train_bce']:7.2f} + KL {row['train_kld']:6.2f}"
        f"   test {row['test_loss']:7.2f} = BCE {row['test_bce']:7.2f} + KL {row['test_kld']:6.2f}"
        f"   {row['images_per_s']:8,.0f} img/s"
    )


def save_metrics(out, history):
    """All epochs' rows as metrics.csv, written whole, and as a picture."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_file(out / "metrics.csv", text.getvalue().encode())
    pictures.save_figure(out / "loss_curves.png", pictures.loss_curves(history), dpi=150)


@torch.no_grad()
def save_pictures(out, epoch, model, grid_z, test_images):
    """The epoch's two grids: samples from the fixed z, and reconstructions under their originals."""
    model.eval()
    pictures.save_png(out / f"img_from_epoch{epoch}.png", pictures.grid(model.decode(grid_z), nrow=8))
    x = next(batches(test_images[:32], 32))
    mu, _ = model.encode(x)
    recon = model.decode(mu)
    n = len(x) // 8 * 8
    # rows of 8 originals and of their 8 reconstructions in turn
    rows = torch.stack([x[:n].unflatten(0, (-1, 8)), recon[:n].unflatten(0, (-1, 8))], dim=1).flatten(0, 2)
    pictures.save_png(out / f"recon_from_epoch{epoch}.png", pictures.grid(rows, nrow=8))


def finish(args, model, settings, source, history):
    """Keep what a finished run needs: the weights, in half precision, without the optimiser.

    Half precision rounds less than the bf16 the network was trained in, and halves the file.
    """
    save_checkpoint(args.checkpoint, model.half(), args=settings, source=source, history=history)
    shipped = "" if args.checkpoint == cli.TRAINED else f" --checkpoint {args.checkpoint}"
    print(
        f"wrote {args.checkpoint}\n"
        f"wrote {args.out}/: img_from_epoch0.png … img_from_epoch{args.epochs}.png, recon_from_epoch….png, "
        "metrics.csv, loss_curves.png\n"
        f"next: python generate.py{shipped}   python evaluate.py{shipped}"
    )


def last_good(args, history):
    if not history:
        return "no epoch was finished, nothing was saved"
    return f"{args.checkpoint} holds epoch {history[-1]['epoch']} of {args.epochs}: add --resume to go on"


if __name__ == "__main__":
    with cli.user_errors():
        main()
