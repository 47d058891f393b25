"""Train a ConvVAE: minimise the negative ELBO, BCE + KL, and after every epoch save all that came of it.

    python train.py                                      # 20 epochs on the best device found
    python train.py --epochs 100 --binarize-epochs 80    # the first of three runs to the README's gray model
    python train.py --epochs 100 --device cuda           # on an NVIDIA GPU
    python train.py --dataset FOLDER                     # on your own images: FOLDER/<class>/*, or FOLDER/*
    python train.py --resume                             # go on after a stop, as if there had been none
    torchrun --nproc-per-node=2 train.py                 # on several processes or GPUs

Every epoch writes the checkpoint, checkpoints/vae.pt, and, in outputs/vae/, a grid of samples from
the same fixed z, a grid of reconstructions, metrics.csv and the loss curves.
"""

import functools
import itertools
import math

import torch

from augmentation import MoveConditioned, augment
from data import EVAL_BATCH, batches, draw_pixels, load_split, to_float
from importance import ImportanceWeighted, iw_loss
from mixture import fit_mixture
from model import ConvVAE, vae_loss
from optimizer import make_optimizer
from support import distributed, flags
from support.checkpoint import in_half, load_checkpoint, optimizer_state, restore_training, save_checkpoint
from support.device import graphed, mix_seed, pick_device, timed
from support.errors import UserError, user_errors
from support.measures import Means
from support.reports import check_finite, describe, metrics, report, save_film, save_reports
from support.runs import check_images, claim_folder, images_elsewhere, lock_checkpoint, new_run, resume_run
from support.terminal import CHECKPOINT, next_step, progress

WARMUP_STEPS = 200  # the learning rate rises over these, or over a tenth of all steps if that is less
FINAL_LR = 0.01  # the cosine ends at this fraction of the peak


def parse_args():
    """A flag for each setting of settings.py, and those for the device and for paths."""
    parser = flags.Parser(__doc__)
    flags.add_settings(parser)
    files = parser.add_argument_group("files and device")
    flags.add_shared(files, "--device", "--data-dir")
    add = files.add_argument
    add("--checkpoint", type=flags.user_path, default=CHECKPOINT, help="the file to train into")
    add("--out", type=flags.user_path, help="folder for pictures and metrics (default: outputs/NAME)")
    add = files.add_mutually_exclusive_group().add_argument
    add("--resume", action="store_true", help="go on from the checkpoint, with its settings, into its --out")
    add("--overwrite", action="store_true", help="start anew over an earlier run's files")
    return parser.parse_args()


def main():
    args = parse_args()
    device = distributed.init(pick_device(args.device))  # under torchrun, this rank's
    if args.resume or distributed.should_resume():  # the latter after torchrun has restarted us
        model, run = load_checkpoint(args.checkpoint)  # run: settings, history, all but the weights
        run = resume_run(run, args, device)
    elif "from_" in args:  # --from was typed (args has only typed settings): start from a trained model
        model, parent = load_checkpoint(args.from_)
        run = new_run(args, device, parent)  # takes over the parent's size of network and its images
    else:  # start anew
        run = new_run(args, device)
        torch.manual_seed(run.settings.seed)
        model = ConvVAE(**run.settings.network_arguments)
    settings = run.settings  # with a precision of fp32 or bf16: "auto" has been resolved

    with lock_checkpoint(run, args.checkpoint):
        with distributed.local_main_process_first():  # the first may download, while the others wait
            train, test = (load_split(run, args.data_dir, split) for split in ("train", settings.test_split))
        check_images(run, train, test)  # an error if the run began with other images; a new run notes its own
        train, test = train.to(device), test.to(device)
        network = model  # what is trained: the model, or a wrapper; run.moves has what only the wrapper has
        if settings.importance_samples > 1:
            network = ImportanceWeighted(model, settings.importance_samples)
        elif settings.augment:
            network = MoveConditioned(model, settings.seed)
        network.to(device, memory_format=torch.channels_last)
        ddp_model = distributed.wrap(network, settings.batch_size)  # network itself, or DDP under torchrun
        optimizer = make_optimizer(network, settings.lr, settings.weight_decay)
        restore_training(run, network, optimizer)  # what a run that goes on had; run.moves in any case
        step = functools.partial(train_step, ddp_model, optimizer, settings)
        step = graphed(step, optimizer, device)  # on a CUDA GPU recorded once, then replayed

        if distributed.is_main_process():
            claim_folder(run, args.overwrite)  # run.out; an error if it holds another's pictures
            print(describe(model, run, device, train, test))
            # epoch 0, or after --resume the last epoch, whose pictures may be missing
            save(args.checkpoint, model, optimizer, run, test)
        for epoch in range(len(run.history) + 1, settings.epochs + 1):
            with timed(device) as clock:
                train_loss = train_epoch(ddp_model, step, train, epoch, settings)
            test_loss = mean_loss(network, test, settings)
            row = metrics(epoch, train_loss, test_loss, len(train.images), clock.seconds)
            check_finite(row, model, settings, args.checkpoint)
            run.history.append(row)
            if distributed.is_main_process():
                save(args.checkpoint, model, optimizer, run, test)
                print(report(row, settings), flush=True)
        if distributed.is_main_process():
            finish(args.checkpoint, model, run, train, args.data_dir)  # in half precision, with the mixture
    distributed.destroy()


# Training


def train_epoch(ddp_model, step, train, epoch, settings):
    """One pass over the training split: the mean ``(loss, bce, kld)`` in nats per image.

    ``step(x, y, moves, lr, beta, weight)`` is train_step with the rest filled in; you may let beta change by
    epoch, and weight is 1 unless ranks share batches. Everything random follows from the seed, the number of
    the epoch and the rank: an epoch is the same whether or not those before it ran in this process.
    """
    ddp_model.train()
    generator = torch.Generator().manual_seed(mix_seed(settings.seed, epoch, 0))  # the same on all ranks
    order = torch.randperm(len(train.images), generator=generator).to(train.images.device)
    torch.manual_seed(mix_seed(settings.seed, epoch, 1 + distributed.get_rank()))
    steps = math.ceil(len(order) / settings.batch_size)
    beta = settings.beta
    means = Means(train.images.device)
    with progress(desc=f"epoch {epoch}/{settings.epochs}", total=steps, unit="step") as bar:
        for number, (indices, weight) in enumerate(distributed.rank_batches(order, settings.batch_size)):
            x, y = to_float(train.images[indices]), train.labels[indices]  # (B, 1, 28, 28), (B,)
            x, moves = augment(x, settings, epoch)  # by --augment or --move-epochs; moves (B, 6)
            x = draw_pixels(x, settings.binarize or epoch <= settings.binarize_epochs)
            lr = learning_rate((epoch - 1) * steps + number, settings.epochs * steps, settings.lr)
            losses = step(x, y, moves, lr, beta, weight)
            means.add(losses, len(x))
            bar.update()
            if number % 50 == 0:  # .item() waits until a GPU is done: not in every step
                bar.set_postfix_str(f"loss {losses[0].item():.2f}")
    return means.compute()


def train_step(ddp_model, optimizer, settings, x, y, moves, lr, beta, weight):
    """One optimiser step on images x (B, 1, 28, 28) in [0, 1] with labels y (B,): its ``(loss, bce, kld)``.

    ``moves`` (B, 6), entries of an affine map, are for MoveConditioned; ``weight``, 1 where one process
    trains alone, makes up for ranks with unequal parts of a batch. Where one process trains on a CUDA GPU,
    a step of a full batch is recorded once and replayed: its inputs, from x to weight, are then tensors
    into which new values are copied. So whatever changes from step to step has to be passed in, and
    nothing may ask for a value, with .item() or print.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss, bce, kld = loss_of_batch(ddp_model, x, y, moves, beta, settings)
    optimizer.zero_grad()
    (weight * loss).backward()
    optimizer.step()
    return loss.detach(), bce.detach(), kld.detach()  # detached, so that the graph behind them is freed


def loss_of_batch(network, x, y, moves, beta, settings, generator=None):
    """The ``(loss, bce, kld)`` of images x (B, 1, 28, 28) in [0, 1]; training minimises the loss.

    The labels y (B,) are for a network that is conditional on them, which ConvVAE is not; the moves (B, 6),
    None for a test, are for MoveConditioned.
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        conditions = [moves] if settings.augment else []  # with --move-epochs the network is not told
        logits, mu, logvar, *z = network(x, generator, *conditions)  # only ImportanceWeighted returns a z
    if settings.importance_samples > 1:
        return iw_loss(logits, x, mu, logvar, *z)
    return vae_loss(logits, x, mu, logvar, beta)


@torch.no_grad()
def mean_loss(network, split, settings):
    """Mean ``(loss, bce, kld)`` of a split, shared among the ranks, with the same noise in z every epoch."""
    network.eval()  # not DDP's wrapper, which would wait for ranks with fewer batches
    distributed.broadcast_buffers(network)  # rank 0's means and variances of batch norms, which are saved
    means = Means(split.images.device)
    size = max(1, EVAL_BATCH // settings.importance_samples)
    parts = enumerate(zip(batches(split.images, size), split.labels.split(size), strict=True))
    mine = itertools.islice(parts, distributed.get_rank(), None, distributed.get_world_size())
    for number, (x, y) in mine:  # seeded by batch, not by rank; 0 is an epoch that training never has
        generator = torch.Generator(x.device).manual_seed(mix_seed(settings.seed, 0, number))
        x = draw_pixels(x, settings.binarize, generator)
        means.add(loss_of_batch(network, x, y, None, settings.beta, settings, generator), len(x))
    return means.compute()


def learning_rate(step, total_steps, peak):
    """Linear warm-up to ``peak``, then a cosine down to about FINAL_LR of it.

    A function of the step alone, so that a run that goes on has no scheduler's state to restore.
    """
    warmup = min(WARMUP_STEPS, total_steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / (total_steps - warmup)
    return peak * (FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * done)))


# What a run leaves


def save(path, model, optimizer, run, test):
    """Write the checkpoint, then the pictures and metrics, which can be made again from it."""
    run.optimizer = optimizer_state(optimizer)
    save_checkpoint(path, model, run)
    distributed.set_resumable()  # for the processes that torchrun may start in place of dead ones
    generator = torch.Generator(test.images.device).manual_seed(run.settings.seed)
    x = draw_pixels(to_float(test.images[:32]), run.settings.binarize, generator)
    save_reports(model, run, x)


def finish(path, model, run, train, data_dir):
    """Write the film and the finished checkpoint: weights in half precision, the mixture, no optimiser."""
    mixture = latent_mixture(model, train, run.settings)
    save_film(run)
    # Last of all: a run killed before this has not finished, and --resume does the above again.
    save_checkpoint(path, in_half(model), run.finished(mixture))
    print(f"wrote {path}\nwrote {run.out}/: grids of every epoch, film.gif, metrics.csv, loss_curves.png")
    print(next_step(path, data_dir, "generate", "evaluate", images=images_elsewhere(run)))


@torch.no_grad()
def latent_mixture(model, train, settings):
    """The mixture that sums up where the encoder sends the training images of each class."""
    model.eval()
    generator = torch.Generator(train.images.device).manual_seed(settings.seed)
    parts = batches(train.images, EVAL_BATCH, settings.binarize, generator)
    z = [model.reparameterize(*model.encode(x), generator) for x in parts]
    try:
        return fit_mixture(torch.cat(z).cpu(), train.labels.cpu(), settings.seed)
    except (ValueError, torch.linalg.LinAlgError) as error:
        raise UserError(f"no mixture can be fitted to the encoder's z ({error}): try a lower --lr") from None


if __name__ == "__main__":
    with user_errors(less_memory=["--batch-size", "--latent-dim", "--importance-samples"]):
        main()
