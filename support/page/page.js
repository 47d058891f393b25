// What is shown: a state is { z, original (pixels or null), caption }. `kept` is the last one that was
// chosen; `shown` may be another while the mouse moves over the map.

let kept, shown, grays, written = null;
let drawing = false; // whether the next frame has been asked for

/** Show a state at the next frame; a passing one is forgotten when the mouse leaves the map. */
function show(state, passing = false) {
  shown = state;
  if (!passing) {
    kept = state;
    noteAddress();
  }
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    render();
  });
}

function render() {
  paint(element("decoded"), decode(shown.z));
  paint(element("original"), shown.original);
  element("original").classList.toggle("empty", !shown.original);
  element("original-name").textContent = shown.original ? "original" : "no original";
  element("caption").textContent = shown.caption;
  shown.z.forEach((value, i) => {
    const { input, output } = sliders[i];
    input.value = value;
    output.textContent = signed(value);
  });
  if (bars.length) renderClasses(classProbabilities(shown.z));
  map.draw();
}

function digitState(i) {
  const kind = page.classes.length ? `, a ${isolated(page.classes[digits.labels[i]])}` : "";
  const left = `what is left of it after ${latentDim} number${latentDim > 1 ? "s" : ""}`;
  return { z: muOf(i), original: testDigit(i), caption: `test image ${digits.indices[i]}${kind}, and ${left}` };
}

/** The present state with some latents at other values. */
function moved(latents, values) {
  const z = kept.z.slice();
  latents.forEach((latent, i) => (z[latent] = values[i]));
  return { z, original: kept.original, caption: `latent${latents.length > 1 ? "s" : ""} ${latents.join(" and ")} moved by hand` };
}

// The likelihood bars, which are buttons: none where there are no classes, or no mixture of them

const bars = [];

function makeClasses() {
  const long = page.classes.some((name) => name.length > 2);
  element("classes").classList.toggle("long", long);
  element("classes").style.gridTemplateColumns = `repeat(${Math.min(page.classes.length, long ? 5 : 10)}, minmax(0, 1fr))`;
  page.classes.forEach((name, label) => {
    const button = document.createElement("button");
    button.className = "class";
    button.innerHTML = '<span class="column-of-bar"><span class="bar"></span></span><span class="name"></span>';
    button.querySelector(".name").textContent = name;
    button.title = `Draw a ${name}`;
    const bar = button.querySelector(".bar");
    bar.style.background = color(label);
    button.addEventListener("click", () => {
      show({ z: sampleMixture(label, temperature()), original: null, caption: `a ${isolated(name)} made up by the mixture` });
    });
    element("classes").append(button);
    bars.push({ bar, button });
  });
}

function renderClasses(probabilities) {
  probabilities.forEach((p, label) => {
    bars[label].bar.style.height = `${100 * p}%`;
    bars[label].button.setAttribute("aria-label", `${page.classes[label]}: ${(100 * p).toFixed(1)} %`);
  });
  const best = probabilities.indexOf(Math.max(...probabilities));
  element("verdict").textContent = `taken for a ${isolated(page.classes[best])}: ${(100 * probabilities[best]).toFixed(1)} %`;
}

// The sliders, the most active latent first

let sliders = [];
const temperature = () => element("temperature").valueAsNumber;

function makeSliders() {
  const { low, high, variance } = page.latents;
  for (const i of mostActive) {
    const row = document.createElement("div");
    row.className = "slider";
    row.classList.toggle("inactive", variance[i] < 0.01);
    row.innerHTML = `<label for="z${i}">z<sub>${i}</sub></label><input type="range" id="z${i}" step="any"><output for="z${i}"></output>`;
    const [input, output] = [row.querySelector("input"), row.querySelector("output")];
    Object.assign(input, { min: low[i], max: high[i] });
    input.addEventListener("input", () => show(moved([i], [input.valueAsNumber])));
    input.addEventListener("keydown", (event) => stepSlider(event, input));
    element("sliders").append(row);
    sliders[i] = { input, output };
  }
  const idle = variance.filter((value) => value < 0.01).length;
  element("latents-help").textContent = "the most active first" + (idle ? `; ${idle} of ${latentDim} not in use` : "");
}

/** A hundredth of the range at a key, since the slider itself has no steps. */
function stepSlider(event, input) {
  const direction = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  if (!direction) return;
  event.preventDefault();
  input.value = input.valueAsNumber + (direction * (input.max - input.min)) / 100;
  input.dispatchEvent(new Event("input"));
}

// From A to B

const ends = {};
const way = () => (element("slerp").checked ? "slerp" : "linear");

function keep(name, z) {
  ends[name] = z;
  paintStrip();
}

/** The images from A to B, both with them. */
const stripImages = () => strip.map((_, i) => decode(between(ends.a, ends.b, i / (strip.length - 1), way())));

function paintStrip() {
  stripImages().forEach((image, i) => paint(strip[i], image));
}

function walk() {
  const t = element("walk").valueAsNumber;
  show({ z: between(ends.a, ends.b, t, way()), original: null, caption: `${Math.round(100 * t)} % of the way from A to B, ${way()}` });
}

// The address, which has the present z after its #, so that a link shows the same image

let noting;

/** Not at once, since Safari refuses more than a hundred changes in half a minute. */
function noteAddress() {
  clearTimeout(noting);
  noting = setTimeout(() => history.replaceState(null, "", `#z=${Array.from(kept.z, (value) => +value.toFixed(3)).join("_")}`), 400);
}

/** The state that the address asks for, null if none. */
function addressState() {
  const [name, numbers = ""] = location.hash.split("=");
  const z = Float32Array.from(numbers.split("_"), parseFloat);
  if (name !== "#z" || z.length !== latentDim || !z.every(Number.isFinite)) return null;
  return { z, original: null, caption: "the z in this page's address" };
}

// The page

let samples, strip;

function writeAbout() {
  const { about } = page;
  const pixels = page.binarize ? "binarised pixels" : "gray pixels";
  const loss = "bce" in about
    ? `${about.split} −ELBO ${(about.bce + about.kld).toFixed(2)} nats = ${about.recon} ${about.bce.toFixed(2)} + KL ${about.kld.toFixed(2)}`
    : "not yet trained";
  element("about").textContent =
    `A variational autoencoder, running in this page. ${isolated(about.checkpoint)}: ${latentDim} latent${latentDim > 1 ? "s" : ""}, ` +
    `${about.epochs} epochs on ${isolated(about.dataset)}, ${pixels}; ${loss}.`;
  const facts = { ...about.settings, epochs: about.epochs, dataset: about.dataset, weights: about.parameters, "images on the map": about.digits };
  for (const [name, value] of Object.entries(facts)) {
    const row = document.createElement("div");
    row.innerHTML = "<dt></dt><dd></dd>";
    row.firstChild.textContent = name.replaceAll("_", " ");
    row.lastChild.textContent = value;
    element("facts").append(row);
  }
  element("recon-name").textContent = about.recon;
  element("loss-note").textContent = "bce" in about ? `nats (${about.split}: ${(about.bce + about.kld).toFixed(2)})` : "nats";
  element("writing-help").textContent =
    `${DRAWS} samples of q(z|x), decoded: ${about.recon} is the mean over these sampled z. ` +
    `What you write is fitted into ${box} x ${box} pixels and centred by its mass, as MNIST's digits were.` +
    (page.binarize ? " This model knows black and white only: pixels of at least half are made white." : "");
}

function makeLegend() {
  element("legend").hidden = !page.classes.length;
  page.classes.forEach((name, label) => {
    const item = document.createElement("li");
    item.innerHTML = "<i></i>";
    item.firstChild.style.background = color(label);
    item.append(name);
    element("legend").append(item);
  });
}

function listen() {
  element("temperature").addEventListener("input", () => (element("temperature-value").textContent = temperature().toFixed(2)));
  element("from-prior").addEventListener("click", () =>
    show({ z: normals().map((value) => value * temperature()), original: null, caption: `a sample of N(0, I), at temperature ${temperature().toFixed(2)}` }));
  element("from-mixture").addEventListener("click", () =>
    show({ z: sampleMixture(choose(mixture.share.data), temperature()), original: null, caption: `a sample of the mixture, at temperature ${temperature().toFixed(2)}` }));
  element("reset").addEventListener("click", () =>
    show({ z: new Float32Array(latentDim), original: null, caption: "z = 0, the centre of the prior" }));
  element("clear").addEventListener("click", clearWritten);
  element("borrow").addEventListener("click", borrow);
  element("keep-a").addEventListener("click", () => keep("a", kept.z));
  element("keep-b").addEventListener("click", () => keep("b", kept.z));
  element("walk").addEventListener("input", walk);
  element("save-picture").addEventListener("click", () => save("picture", [decode(kept.z)]));
  element("save-strip").addEventListener("click", () => save("a_to_b", stripImages()));
  for (const id of ["slerp", "linear"]) element(id).addEventListener("change", () => { paintStrip(); walk(); });
  addEventListener("hashchange", () => show(addressState() ?? kept));
  for (const id of ["plane", "pair", "tsne"]) element(id).addEventListener("change", () => map.setMode(id));
}

async function start() {
  grays = await readGrays();
  samples = canvases(element("samples"), DRAWS);
  strip = [element("image-a"), ...canvases(element("strip"), 5), element("image-b")];
  for (const id of ["written", "written-recon"]) paint(element(id), null);
  writeAbout();
  makeLegend();
  makeSliders();
  if (mixture) makeClasses();
  element("classes-part").hidden = !bars.length;
  element("from-mixture").hidden = !mixture;
  if (!bars.length) element("classes-card").setAttribute("aria-labelledby", "random-title");
  element("temperature").value = mixture ? page.temperature : 1;
  element("temperature-value").textContent = temperature().toFixed(2);
  const first = (label, other) => {
    const index = digits.labels.indexOf(label);
    return index < 0 ? other : index;
  };
  ends.a = muOf(first(3, 0));
  keep("b", muOf(first(8, 1)));
  shown = kept = addressState() ?? digitState(first(3, 0));
  if (latentDim === 1) element("plane-name").textContent = "line";
  for (const part of [element("pair"), element("pair").labels[0]]) part.hidden = latentDim < 3; // two are the plane already
  map.setMode("plane");
  const card = element("picture-card");
  new ResizeObserver(() => document.documentElement.style.setProperty("--picture-height", `${card.offsetHeight}px`)).observe(card);
  listen();
  listenToMap();
  makeAxes();
  pad.listen();
  render();
  element("trouble").hidden = true;
  document.documentElement.dataset.ready = "yes";
}

start();
