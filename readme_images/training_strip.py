"""Draw training_strip.png: the same sixteen z after more and more epochs, from the grids that a run left.

python readme_images/training_strip.py outputs/vae
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

EPOCHS = (0, 20, 40, 60, 80, 95)
CELL, PER_ROW = 60, 8  # pixels of an image with its margin; images in a row of a grid
SHOWN = 16  # of the grid's z
LEFT = 120  # pixels, for the epochs' names


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of pictures of a run of at least 95 epochs")
    folder = parser.parse_args().run
    strip = Image.new("L", (LEFT + SHOWN * CELL, len(EPOCHS) * CELL), 255)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(20)
    for row, epoch in enumerate(EPOCHS):
        with Image.open(folder / f"img_from_epoch{epoch}.png") as grid:
            for number in range(SHOWN):
                left, top = number % PER_ROW * CELL, number // PER_ROW * CELL
                image = grid.crop((left, top, left + CELL, top + CELL))
                strip.paste(image, (LEFT + number * CELL, row * CELL))
        draw.text((LEFT - 12, (row + 0.5) * CELL), f"epoch {epoch}", 40, font, anchor="rm")
    strip.save(Path(__file__).with_name("training_strip.png"), optimize=True)


if __name__ == "__main__":
    main()
