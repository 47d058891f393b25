// The model: images and latents, and what is likely

/** pixels (height * width) in [0, 1] -> { mu, logvar } of q(z|x), latentDim numbers each. */
function encode(pixels) {
  const features = run(network.encoder, { data: pixels, height, width, channels: 1 });
  const [low, high] = page.logvarRange;
  return {
    mu: run(network.mu, features).data,
    logvar: run(network.logvar, features).data.map((value) => Math.min(Math.max(value, low), high)),
  };
}

/** z (latentDim) -> the Bernoulli logits of every pixel, height * width of them. */
function decodeLogits(z) {
  return run(network.decoder, { data: z, height: 1, width: 1, channels: latentDim }).data;
}

/** z (latentDim) -> image (height * width) in [0, 1]. */
function decode(z) {
  return decodeLogits(z).map((logit) => 1 / (1 + Math.exp(-logit)));
}

window.convvae = { latentDim, decode, encode };

/** The latents, the most active first. */
const mostActive = Array.from({ length: latentDim }, (_, i) => i)
  .sort((i, j) => page.latents.variance[j] - page.latents.variance[i]);

/** A standard normal number, by Box and Muller. */
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

const normals = () => Float32Array.from({ length: latentDim }, normal);

/** An index of weights, each as often as it weighs. */
function choose(weights) {
  let left = Math.random() * weights.reduce((a, b) => a + b, 0);
  const index = weights.findIndex((weight) => (left -= weight) < 0);
  return index < 0 ? weights.length - 1 : index;
}

/** Where component k of a class begins in the mixture's tensors: its weight, its mean, its Cholesky factor. */
function component(label, k) {
  const index = label * mixture.weights.shape[1] + k;
  return {
    weight: mixture.weights.data[index],
    mean: mixture.means.data.subarray(index * latentDim, (index + 1) * latentDim),
    cholesky: mixture.cholesky.data.subarray(index * latentDim ** 2, (index + 1) * latentDim ** 2),
  };
}

/** A z of this class: mean + temperature * L eps. */
function sampleMixture(label, temperature) {
  const components = mixture.weights.shape[1];
  const k = choose(mixture.weights.data.subarray(label * components, (label + 1) * components));
  const { mean, cholesky } = component(label, k);
  const eps = normals();
  return mean.map((value, i) => {
    for (let j = 0; j <= i; j++) value += temperature * cholesky[i * latentDim + j] * eps[j];
    return value;
  });
}

/** log N(z; mean, L L'), up to a constant that all components share: solves L e = z - mean from the top. */
function logDensity(z, mean, cholesky) {
  const e = new Float64Array(latentDim);
  let sum = 0;
  for (let i = 0; i < latentDim; i++) {
    let rest = z[i] - mean[i];
    for (let j = 0; j < i; j++) rest -= cholesky[i * latentDim + j] * e[j];
    e[i] = rest / cholesky[i * latentDim + i];
    sum -= 0.5 * e[i] ** 2 + Math.log(cholesky[i * latentDim + i]);
  }
  return sum;
}

function logSumExp(values) {
  const top = Math.max(...values);
  return top === -Infinity ? top : top + Math.log(values.reduce((sum, value) => sum + Math.exp(value - top), 0));
}

/** p(class | z) under the mixture: its share times p(z | class), normalised over the classes. */
function classProbabilities(z) {
  const [classes, components] = mixture.weights.shape;
  const logs = Array.from({ length: classes }, (_, label) => {
    const terms = Array.from({ length: components }, (_, k) => {
      const { weight, mean, cholesky } = component(label, k);
      return Math.log(weight) + logDensity(z, mean, cholesky);
    });
    return Math.log(mixture.share.data[label]) + logSumExp(terms);
  });
  const total = logSumExp(logs);
  return logs.map((value) => Math.exp(value - total));
}

/** BCE and KL in nats of an image x, as in model.py: z is sampled, once for each of the images returned. */
function negativeElbo(x, { mu, logvar }, draws) {
  let bce = 0;
  const images = [];
  for (let draw = 0; draw < draws; draw++) {
    const logits = decodeLogits(mu.map((value, i) => value + Math.exp(0.5 * logvar[i]) * normal()));
    logits.forEach((logit, i) => {
      bce += (Math.max(logit, 0) - logit * x[i] + Math.log1p(Math.exp(-Math.abs(logit)))) / draws;
    });
    images.push(logits.map((logit) => 1 / (1 + Math.exp(-logit))));
  }
  let kld = 0;
  for (let i = 0; i < latentDim; i++) kld += 0.5 * (mu[i] ** 2 + Math.exp(logvar[i]) - 1 - logvar[i]);
  return { bce, kld, images };
}

/** A point between a and b. Slerp keeps the length of z on the way; see interpolate.py. */
function between(a, b, t, way) {
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.min(Math.max(cosine, -1), 1));
  if (way === "linear" || !(Math.sin(angle) > 1e-4)) return a.map((value, i) => (1 - t) * value + t * b[i]);
  const [fromA, fromB] = [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
  return a.map((value, i) => fromA * value + fromB * b[i]);
}
