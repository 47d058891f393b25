// Handwriting

const box = Math.round((20 / 28) * Math.min(width, height)); // MNIST's digits are 20 pixels of 28
const FIELD = 280; // pixels a side
const INK = 22; // the pen's width: a tenth of the field, as MNIST's pens were of their digits
const DRAWS = 8;

/**
 * A drawing (grays in [0, 1], row by row) as MNIST's digits were made: its bounding box is fitted into
 * box x box pixels, keeping its proportions, each pixel the mean of what it covers; then the
 * centre of mass is moved to the centre of the image. Null where nothing is drawn.
 */
function prepare(drawing, wide, high) {
  const inked = [];
  drawing.forEach((value, i) => value > 0.02 && inked.push([i % wide, Math.floor(i / wide)]));
  if (!inked.length) return null;
  const [left, right, top, bottom] = inked.reduce(
    ([l, r, t, b], [x, y]) => [Math.min(l, x), Math.max(r, x + 1), Math.min(t, y), Math.max(b, y + 1)],
    [Infinity, -Infinity, Infinity, -Infinity]);
  const scale = box / Math.max(right - left, bottom - top);
  const size = [Math.max(1, Math.round((right - left) * scale)), Math.max(1, Math.round((bottom - top) * scale))];
  const across = shares(right - left, size[0]), down = shares(bottom - top, size[1]);
  const small = new Float32Array(size[0] * size[1]);
  for (const [x, y] of inked) {
    const value = drawing[y * wide + x];
    for (const [row, tall] of down[y - top]) {
      for (const [column, broad] of across[x - left]) small[row * size[0] + column] += value * tall * broad;
    }
  }
  return centered(small, size);
}

/** How `from` pixels cover `to` pixels of the same length: for each [index, share of that pixel], .... */
function shares(from, to) {
  return Array.from({ length: from }, (_, i) => {
    const [start, end] = [(i * to) / from, ((i + 1) * to) / from];
    const covered = [];
    for (let j = Math.floor(start); j < Math.min(end, to); j++) {
      const share = Math.min(end, j + 1) - Math.max(start, j);
      if (share > 1e-9) covered.push([j, share]);
    }
    return covered;
  });
}

/** Put a small image into one of height x width with its centre of mass at the centre, whole if that is possible. */
function centered(small, [wide, high]) {
  let mass = 0, x = 0, y = 0;
  small.forEach((value, i) => {
    mass += value;
    x += value * ((i % wide) + 0.5);
    y += value * (Math.floor(i / wide) + 0.5);
  });
  const inside = (start, most) => Math.min(Math.max(start, 0), most);
  const left = inside(Math.round(width / 2 - x / mass), width - wide);
  const top = inside(Math.round(height / 2 - y / mass), height - high);
  const image = new Float32Array(width * height);
  small.forEach((value, i) => {
    image[(top + Math.floor(i / wide)) * width + left + (i % wide)] = Math.min(1, value);
  });
  return image;
}

/** The field. Its ink is worked out here and not read from the canvas, which some browsers falsify. */
const pad = {
  canvas: element("pad"),
  ink: new Float32Array(FIELD * FIELD),
  last: null,

  listen() {
    const { canvas } = this;
    this.clear();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      element("pad-hint").hidden = true;
      this.last = this.point(event);
      this.lineTo(this.last);
      paint(canvas, this.ink, FIELD, FIELD);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.last) return;
      // the points between two frames, where the browser keeps them: fast strokes stay round
      const events = event.getCoalescedEvents?.() ?? [];
      (events.length ? events : [event]).forEach((each) => this.lineTo(this.point(each)));
      paint(canvas, this.ink, FIELD, FIELD);
      this.readSoon();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => {
        if (!this.last) return;
        this.last = null;
        this.read();
      });
    }
  },

  point(event) {
    return placeIn(this.canvas, event).map((value) => (value * FIELD) / this.canvas.clientWidth);
  },

  /** A stroke with round ends from the last point to this one: a pixel is as white as it lies within the pen's reach. */
  lineTo(point) {
    const [x0, y0] = this.last, [dx, dy] = [point[0] - x0, point[1] - y0];
    const reach = INK / 2 + 0.5;
    const [left, top] = [x0 + Math.min(dx, 0), y0 + Math.min(dy, 0)].map((value) => Math.max(Math.floor(value - reach), 0));
    const [right, bottom] = [x0 + Math.max(dx, 0), y0 + Math.max(dy, 0)].map((value) => Math.min(Math.ceil(value + reach), FIELD));
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
        const t = Math.min(Math.max((px * dx + py * dy) / (dx * dx + dy * dy || 1), 0), 1); // of the way, the nearest point
        const white = Math.min(reach - Math.hypot(px - t * dx, py - t * dy), 1);
        this.ink[y * FIELD + x] = Math.max(this.ink[y * FIELD + x], white);
      }
    }
    this.last = point;
  },

  clear() {
    this.ink.fill(0);
    paint(this.canvas, null, FIELD, FIELD);
    element("pad-hint").hidden = false;
  },

  /** Encode what is there while the pen is still moving, but not more often than the screen shows it. */
  readSoon() {
    if (this.waiting) return;
    this.waiting = true;
    setTimeout(() => {
      this.waiting = false;
      this.read();
    }, 60);
  },

  read() {
    const x = prepare(this.ink, FIELD, FIELD);
    if (x) showWritten(page.binarize ? x.map((value) => (value >= 0.5 ? 1 : 0)) : x, "what you wrote, and what is left of it");
  },
};

/** Encode an image and show all about it. */
function showWritten(x, caption) {
  const posterior = encode(x);
  const { bce, kld, images } = negativeElbo(x, posterior, DRAWS);
  written = { z: posterior.mu };
  paint(element("written"), x);
  paint(element("written-recon"), decode(posterior.mu));
  images.forEach((image, i) => paint(samples[i], image));
  element("bce").textContent = bce.toFixed(2);
  element("kld").textContent = kld.toFixed(2);
  element("loss").textContent = (bce + kld).toFixed(2);
  show({ z: posterior.mu, original: x, caption });
}

function clearWritten() {
  pad.clear();
  written = null;
  for (const canvas of [element("written"), element("written-recon"), ...samples]) paint(canvas, null);
  for (const id of ["bce", "kld", "loss"]) element(id).textContent = "–";
  map.draw();
}

/** Write a random test digit into the field, as if by hand. */
function borrow() {
  const pixels = testDigit(Math.floor(Math.random() * count));
  clearWritten();
  element("pad-hint").hidden = true;
  pad.ink.forEach((_, i) => {
    const [row, column] = [Math.floor(i / FIELD), i % FIELD];
    pad.ink[i] = pixels[Math.floor((row * height) / FIELD) * width + Math.floor((column * width) / FIELD)];
  });
  paint(pad.canvas, pad.ink, FIELD, FIELD);
  showWritten(pixels, "a borrowed test image, and what is left of it");
}
