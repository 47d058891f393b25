"""Sample digits: decode z ~ N(0, I) to a grid of images. Needs neither data nor network.

python generate.py                                 # 64 digits
python generate.py --n 100 --nrow 10 --seed 7
python generate.py --temperature 0.7               # z ~ N(0, 0.7^2 I): tidier, less varied
python generate.py --save-images outputs/digits    # every digit as a PNG of its own, too
"""

from pathlib import Path

import torch
from PIL import Image

import cli
import pictures


def parse_args():
    parser = cli.Parser(__doc__)
    cli.add_checkpoint(parser)
    parser.add_argument("--n", type=cli.positive_int, default=64, help="how many digits")
    parser.add_argument("--nrow", type=cli.positive_int, default=8, help="how many in a row of the grid")
    parser.add_argument("--temperature", type=cli.positive_float, default=1.0, help="standard deviation of z")
    parser.add_argument(
        "--save-images", type=Path, metavar="DIR", help="also write single 28 x 28 PNGs there"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/generated.png"), help="picture of the grid")
    cli.add_seed(parser)
    cli.add_device(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    model, _, _ = cli.open_model(args.checkpoint, cli.pick_device(args.device))
    images = model.sample(args.n, args.temperature, torch.Generator().manual_seed(args.seed))
    pictures.save_png(args.out, pictures.grid(images, args.nrow))
    print(f"wrote {args.out}: {args.n} samples from N(0, I), seed {args.seed}")
    if args.save_images:
        for i, digit in enumerate(pictures.to_pixels(images)):
            pictures.save_png(args.save_images / f"{i:05d}.png", Image.fromarray(digit))
        print(f"wrote {args.save_images}/00000.png … {args.n - 1:05d}.png")
    print("next: python interpolate.py")


if __name__ == "__main__":
    with cli.user_errors():
        main()
