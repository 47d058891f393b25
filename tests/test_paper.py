"""The ink of the digit in the middle of a page, whatever the light and whatever else is in the picture."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from support.paper import ink_alone

PAPER, INK = 225, 40


def draw_page(*strokes, ink=INK):
    """A page of 112 x 84 pixels with these lines of ink, soft at their edges: float, as dark as it is."""
    drawn = Image.new("L", (448, 336))
    for stroke in strokes:
        ImageDraw.Draw(drawn).line([(4 * x, 4 * y) for x, y in stroke], 255, width=14, joint="curve")
    share = np.asarray(drawn.filter(ImageFilter.GaussianBlur(2)).resize((112, 84)), float) / 255
    return PAPER - (PAPER - ink) * share


def read(page):
    """The ink alone of a page, which is dark on light, and the doubts."""
    image, doubts = ink_alone(Image.fromarray((255 - page).clip(0, 255).astype(np.uint8)))
    assert image.mode == "L" and image.size == page.shape[::-1]
    return np.asarray(image, float), doubts


def box(ink):
    return [(where.min(), where.max()) for where in np.nonzero(ink)]


SEVEN = [(46, 30), (66, 30), (54, 56)]


def in_fading_light(page):
    return page * np.linspace(1, 0.6, 112)


def under_a_shadow(page):
    return page * np.where(np.arange(112) + np.arange(84)[:, None] > 94, 0.6, 1)


def on_a_desk(page):
    desk = np.full((84, 112), 55.0)
    desk[8:76, 14:99] = page[8:76, 14:99]
    return desk


def in_a_frame(page):
    frame = page.copy()
    frame[5:-5, 7:-7] = 50
    frame[8:-8, 10:-10] = page[8:-8, 10:-10]
    return frame


def with_specks(page):
    specks = page.copy()
    for x, y in ((20, 20), (90, 64), (30, 70), (75, 28)):
        specks[y : y + 2, x : x + 2] = 30
    return specks


def on_squared_paper(page):
    """Its lines are as wide as a pixel, and half as dark as pencil."""
    squared = page.copy()
    squared[3::9] = squared[3::9].clip(max=190)
    squared[:, 4::9] = squared[:, 4::9].clip(max=190)
    return squared


@pytest.mark.parametrize("ink", [INK, 150], ids=["pen", "pencil"])
@pytest.mark.parametrize(
    "photograph",
    [in_fading_light, under_a_shadow, on_a_desk, in_a_frame, with_specks, on_squared_paper],
)
def test_digit_is_what_it_is_on_a_plain_page(photograph, ink):
    plain, _ = read(draw_page(SEVEN, ink=ink))
    found, doubts = read(photograph(draw_page(SEVEN, ink=ink)))
    assert doubts == []
    assert np.abs(np.subtract(box(found), box(plain))).max() <= 1
    assert np.corrcoef(found.flatten(), plain.flatten())[0, 1] > 0.9


def test_strokes_keep_their_gray_levels():
    page = draw_page(SEVEN)
    found, doubts = read(page)
    ink = 255 * (PAPER - page) / (PAPER - page).max()
    assert doubts == [] and len(np.unique(found)) > 20
    assert np.abs(found - ink)[found > 0].max() < 4 and ink[found == 0].max() <= 0.25 * 255 + 4


def test_digit_of_two_pieces_is_kept_whole():
    body, bar = [(48, 36), (47, 44), (58, 46), (57, 56), (46, 56)], [(52, 31), (64, 30)]
    found, doubts = read(draw_page(body, bar))
    assert doubts == [] and box(found)[0][0] < 32 and box(found)[0][1] > 54


def test_several_digits_are_told_and_the_one_in_the_middle_is_read():
    row = [[(x + offset, y) for x, y in SEVEN] for offset in (-38, 0, 38)]
    found, doubts = read(draw_page(*row))
    assert doubts == ["several digits"]
    assert box(found) == box(read(draw_page(SEVEN))[0])
    assert read(draw_page([(20, 40), (90, 40)]))[1] == ["several digits"]  # so broad is none alone


def test_digit_that_fills_its_picture_is_read_whole_and_that_is_told():
    page = draw_page(SEVEN)
    whole = read(page)[0][30:57, 46:67]
    found, doubts = read(page[30:57, 46:67])  # in the midst of its strokes
    assert doubts == ["the ink reaches the border"]
    assert np.corrcoef(found.flatten(), whole.flatten())[0, 1] > 0.95


@pytest.mark.parametrize("noise", [0, 4])
@pytest.mark.parametrize("photograph", [np.array, in_fading_light, on_a_desk])
def test_blank_page_is_blank(photograph, noise):
    page = photograph(draw_page()) + np.random.default_rng(0).normal(0, noise, (84, 112))
    found, doubts = read(page)
    assert found.max() == 0 and doubts == ["hardly any ink"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 2), (90, 3)])
def test_no_page_is_too_small(shape):
    assert read(np.full(shape, 200.0))[0].max() == 0
    read(np.random.default_rng(0).uniform(0, 255, shape))
