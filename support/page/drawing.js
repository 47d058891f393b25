// What is drawn, and how names and numbers are written

const element = (id) => document.getElementById(id);
const color = (label) => page.palette[label % page.palette.length];

/** Two decimals, with a minus sign as wide as the digits, and no minus zero. */
const signed = (value) => value.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");

/** A name inside a sentence, between Unicode's isolates: one from right to left leaves the rest in its order. */
const isolated = (name) => `\u2068${name}\u2069`;

/** Show grays in [0, 1], row by row, white on black, or nothing. */
function paint(canvas, grays, wide = width, high = height) {
  [canvas.width, canvas.height] = [wide, high];
  if (!grays) return;
  const context = canvas.getContext("2d");
  const image = context.createImageData(wide, high);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = 0xff000000 + 0x010101 * Math.round(255 * grays[i]);
  context.putImageData(image, 0, 0);
}

/** A row of n canvases in an element. */
function canvases(parent, n) {
  return Array.from({ length: n }, () => {
    const canvas = document.createElement("canvas");
    canvas.className = "digit";
    paint(canvas, null);
    return parent.appendChild(canvas);
  });
}

/** Test digit i: grays (height * width) in [0, 1]. */
function testDigit(i) {
  const digit = new Float32Array(height * width);
  for (let p = 0; p < digit.length; p++) digit[p] = grays[i * digit.length + p] / 255;
  return digit;
}

const muOf = (i) => digits.mu.slice(i * latentDim, (i + 1) * latentDim);
