// The network's arithmetic, which knows nothing of the page: tests/test_explore.py tries it alone.
//
// Feature maps are { data, height, width, channels }, channels last; a vector is a map of one
// pixel. So a patch of an image is a few rows of consecutive numbers, and the step between
// feature maps and vectors moves nothing.

/**
 * out[n, m] = sum over k of a[m, k] b[n, k] + bias[m], all row by row. Eight sums at a time: each number
 * that is read serves two or four of them. Past the last row the last one is done again.
 */
function product(a, b, rows, positions, depth, bias) {
  const out = new Float32Array(positions * rows);
  for (let n = 0; n < positions; n += 2) {
    const b0 = n * depth, b1 = Math.min(n + 1, positions - 1) * depth;
    for (let m = 0; m < rows; m += 4) {
      const m1 = Math.min(m + 1, rows - 1), m2 = Math.min(m + 2, rows - 1), m3 = Math.min(m + 3, rows - 1);
      const a0 = m * depth, a1 = m1 * depth, a2 = m2 * depth, a3 = m3 * depth;
      let s00 = 0, s10 = 0, s20 = 0, s30 = 0, s01 = 0, s11 = 0, s21 = 0, s31 = 0;
      for (let k = 0; k < depth; k++) {
        const x = b[b0 + k], y = b[b1 + k];
        const w0 = a[a0 + k], w1 = a[a1 + k], w2 = a[a2 + k], w3 = a[a3 + k];
        s00 += w0 * x; s10 += w1 * x; s20 += w2 * x; s30 += w3 * x;
        s01 += w0 * y; s11 += w1 * y; s21 += w2 * y; s31 += w3 * y;
      }
      const o0 = n * rows, o1 = Math.min(n + 1, positions - 1) * rows;
      out[o0 + m] = s00 + bias[m]; out[o0 + m1] = s10 + bias[m1];
      out[o0 + m2] = s20 + bias[m2]; out[o0 + m3] = s30 + bias[m3];
      out[o1 + m] = s01 + bias[m]; out[o1 + m1] = s11 + bias[m1];
      out[o1 + m2] = s21 + bias[m2]; out[o1 + m3] = s31 + bias[m3];
    }
  }
  return out;
}

/** The patch under the kernel at every position, each kernel * kernel * channels numbers, zero outside the image. */
function patches(input, kernel, stride, padding) {
  const { data, height, width, channels } = input;
  const outHeight = Math.floor((height + 2 * padding - kernel) / stride) + 1;
  const outWidth = Math.floor((width + 2 * padding - kernel) / stride) + 1;
  const depth = kernel * kernel * channels;
  const out = new Float32Array(outHeight * outWidth * depth);
  for (let y = 0; y < outHeight; y++) {
    for (let x = 0; x < outWidth; x++) {
      const left = x * stride - padding;
      const from = Math.max(left, 0), to = Math.min(left + kernel, width);
      for (let ky = 0; ky < kernel; ky++) {
        const row = y * stride - padding + ky;
        if (row < 0 || row >= height || from >= to) continue;
        const source = (row * width + from) * channels;
        const target = (y * outWidth + x) * depth + (ky * kernel + from - left) * channels;
        for (let i = 0; i < (to - from) * channels; i++) out[target + i] = data[source + i];
      }
    }
  }
  return { data: out, height: outHeight, width: outWidth, depth };
}

const layers = {
  conv(input, { weight, bias, stride, padding }) {
    const [channels, kernel] = weight.shape; // (out, kernel, kernel, in)
    const { data, height, width, depth } = patches(input, kernel, stride, padding);
    return { data: product(weight.data, data, channels, height * width, depth, bias.data), height, width, channels };
  },

  /** Every input pixel paints its kernel * kernel patch of the output; where patches overlap they add up. */
  transposed(input, { weight, bias, stride, padding }) {
    const [kernel, , channels, inChannels] = weight.shape; // (kernel, kernel, out, in)
    const size = kernel * kernel * channels;
    const painted = product(weight.data, input.data, size, input.height * input.width, inChannels, new Float32Array(size));
    const height = (input.height - 1) * stride + kernel - 2 * padding;
    const width = (input.width - 1) * stride + kernel - 2 * padding;
    const data = new Float32Array(height * width * channels);
    for (let i = 0; i < data.length; i++) data[i] = bias.data[i % channels];
    for (let y = 0, source = 0; y < input.height; y++) {
      for (let x = 0; x < input.width; x++) {
        for (let k = 0; k < kernel * kernel; k++, source += channels) {
          const row = y * stride - padding + Math.floor(k / kernel), column = x * stride - padding + (k % kernel);
          if (row < 0 || row >= height || column < 0 || column >= width) continue;
          const target = (row * width + column) * channels;
          for (let c = 0; c < channels; c++) data[target + c] += painted[source + c];
        }
      }
    }
    return { data, height, width, channels };
  },

  linear(input, { weight, bias }) {
    const [channels, depth] = weight.shape; // (out, in)
    return { data: product(weight.data, input.data, channels, 1, depth, bias.data), height: 1, width: 1, channels };
  },

  scale(input, { scale, shift }) {
    const { channels } = input;
    return { ...input, data: input.data.map((value, i) => value * scale.data[i % channels] + shift.data[i % channels]) };
  },

  leaky(input, { slope }) {
    return { ...input, data: input.data.map((value) => (value > 0 ? value : slope * value)) };
  },

  maxpool(input, { size }) {
    const { channels } = input;
    const height = Math.floor(input.height / size), width = Math.floor(input.width / size);
    const data = new Float32Array(height * width * channels).fill(-Infinity);
    for (let y = 0; y < height * size; y++) {
      for (let x = 0; x < width * size; x++) {
        const source = (y * input.width + x) * channels;
        const target = (Math.floor(y / size) * width + Math.floor(x / size)) * channels;
        for (let c = 0; c < channels; c++) {
          if (input.data[source + c] > data[target + c]) data[target + c] = input.data[source + c];
        }
      }
    }
    return { data, height, width, channels };
  },

  reshape(input, { shape: [height, width, channels] }) {
    return { data: input.data, height, width, channels };
  },

  residual(input, { body }) {
    const change = run(body, input);
    return { ...change, data: change.data.map((value, i) => value + input.data[i]) };
  },
};

function run(list, input) {
  return list.reduce((maps, layer) => layers[layer.kind](maps, layer), input);
}
