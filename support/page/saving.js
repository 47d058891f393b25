// Saving. The PNG is made here from the numbers and not read from a canvas, which some browsers falsify.

const ZOOM = 10; // pixels of the file, a side, for one of an image

/** Download images (grays in [0, 1], row by row) side by side as a PNG. */
async function save(name, images) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await png(images)); // a few kilobytes, which go with the page
  link.download = `${name}.png`;
  link.click();
}

async function png(images) {
  const [wide, high] = [images.length * width * ZOOM, height * ZOOM];
  const rows = new Uint8Array(high * (1 + wide)); // each begins with its filter: 0, none
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      const row = Math.floor(y / ZOOM), column = Math.floor(x / ZOOM);
      const image = images[Math.floor(column / width)];
      rows[y * (1 + wide) + 1 + x] = Math.round(255 * image[row * width + (column % width)]);
    }
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, wide);
  header.setUint32(4, high);
  header.setUint8(8, 8); // bits; all else is 0, which is gray
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  const chunks = [chunk("IHDR", new Uint8Array(header.buffer)), chunk("IDAT", data), chunk("IEND", new Uint8Array())];
  return new Blob([signature, ...chunks], { type: "image/png" });
}

/** A part of a PNG: the length of its data, its name, its data, and a checksum of both. */
function chunk(name, data) {
  const bytes = new Uint8Array(data.length + 12), view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = name.charCodeAt(i);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}
