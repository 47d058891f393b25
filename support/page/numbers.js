// What Python wrote

/**
 * The bytes in all elements of this class, which are gone then. They come in pieces, since the time that
 * WebKit's parser takes for one script grows faster than its length; and plain loops here and below are
 * many times faster than `from` with a function.
 */
function takeBytes(name) {
  const pieces = Array.from(document.querySelectorAll(`script.${name}`), (piece) => {
    piece.remove();
    return atob(piece.textContent);
  });
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let end = 0;
  for (const piece of pieces) {
    for (let i = 0; i < piece.length; i++) bytes[end++] = piece.charCodeAt(i);
  }
  return bytes;
}

/** IEEE half precision -> single precision. There are only 65,536 of them, so each is worked out once. */
function singlesOf(halves) {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
    table[bits] = bits & 32768 ? -size : size;
  }
  const singles = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) singles[i] = table[halves[i]];
  return singles;
}

/** The grays of the test digits, row by row, one digit after another. */
async function readGrays() {
  const stream = new Blob([takeBytes("grays")]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const page = JSON.parse(document.getElementById("data-page").textContent);
const stores = {
  half: singlesOf(new Uint16Array(takeBytes("half").buffer)),
  single: new Float32Array(takeBytes("single").buffer),
};

/** Put the numbers of every tensor in value, at any depth, where Python left word of where they are. */
function unpack(value) {
  if (value === null || typeof value !== "object") return value;
  if ("store" in value) {
    const size = value.shape.reduce((a, b) => a * b, 1);
    return { shape: value.shape, data: stores[value.store].subarray(value.start, value.start + size) };
  }
  if (Array.isArray(value)) return value.map(unpack);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, unpack(item)]));
}

const network = unpack(page.network);
const mixture = unpack(page.mixture);
const digits = { ...page.digits, mu: unpack(page.digits.mu).data, tsne: unpack(page.digits.tsne).data };
const count = digits.labels.length;
const [height, width] = page.size;
const latentDim = page.latentDim;
