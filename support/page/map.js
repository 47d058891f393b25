// The map

const NAME = 22; // pixels: the height of a name on it

const map = {
  canvas: element("map"),
  mode: "plane", // or "pair", of two latents, or "tsne"
  pair: mostActive.slice(0, 2), // the latents across and up
  dots: null, // the dots and names, which are drawn once for each size, theme and mode
  cursor: null, // where the keyboard is in t-SNE, in the canvas's pixels: elsewhere it is at the ring
  pointer: null, // where the mouse, pen or finger is, while it is on the map

  /** Coordinates of a z in the plane; of one latent, in the line, with a lane for each class. */
  project(z, label = null) {
    if (this.mode === "pair") return this.pair.map((i) => z[i]);
    const { center, directions } = page.plane;
    const [x, y] = directions.map((direction) => direction.reduce((sum, value, i) => sum + value * (z[i] - center[i]), 0));
    return [x, directions.length > 1 ? y : label === null ? 0 : Math.max(page.classes.length - 1, 0) / 2 - label];
  },

  zAt([x, y]) {
    const { center, directions } = page.plane;
    return Float32Array.from(center, (value, i) => value + x * directions[0][i] + (directions.length > 1 ? y * directions[1][i] : 0));
  },

  /** Lay the points out on the canvas: `place` goes from coordinates to pixels, `coordinates` back. */
  layOut() {
    const { clientWidth, clientHeight } = this.canvas;
    this.points = Array.from({ length: count }, (_, i) =>
      this.mode === "tsne" ? [digits.tsne[2 * i], digits.tsne[2 * i + 1]] : this.project(muOf(i), digits.labels[i]));
    const span = [0, 1].map((axis) => {
      if (this.mode === "pair") return ["low", "high"].map((end) => page.latents[end][this.pair[axis]]); // as far as the sliders
      const values = this.points.map((point) => point[axis]).sort((a, b) => a - b);
      const outside = Math.floor(count / 200); // a few far digits should not make all others small
      return [values[outside], values[count - 1 - outside]];
    });
    const margin = 26;
    let scales = span.map(([low, high], axis) => ([clientWidth, clientHeight][axis] - 2 * margin) / (high - low || 1));
    if (this.mode === "tsne" || (this.mode === "plane" && latentDim > 1)) scales = scales.map(() => Math.min(...scales)); // the same for both
    const middle = span.map(([low, high]) => (low + high) / 2);
    this.place = ([x, y]) => [clientWidth / 2 + (x - middle[0]) * scales[0], clientHeight / 2 - (y - middle[1]) * scales[1]];
    this.coordinates = ([px, py]) => [middle[0] + (px - clientWidth / 2) / scales[0], middle[1] - (py - clientHeight / 2) / scales[1]];
    this.places = this.points.map(this.place);
    this.dots = this.drawDots(clientWidth, clientHeight);
  },

  drawDots(wide, high) {
    const layer = document.createElement("canvas");
    const dense = window.devicePixelRatio || 1;
    layer.width = Math.round(wide * dense);
    layer.height = Math.round(high * dense);
    const context = layer.getContext("2d");
    context.scale(dense, dense);
    const radius = wide < 500 ? 1.9 : 2.6;
    this.places.forEach(([x, y], i) => {
      context.globalAlpha = 0.72;
      context.fillStyle = color(digits.labels[i]);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    });
    const style = getComputedStyle(document.documentElement);
    context.globalAlpha = 1;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const { name, x, y, half } of this.namePlaces(context)) {
      context.fillStyle = style.getPropertyValue("--card");
      context.globalAlpha = 0.85;
      context.beginPath();
      context.roundRect(x - half, y - NAME / 2, 2 * half, NAME, 7);
      context.fill();
      context.globalAlpha = 1;
      context.fillStyle = style.getPropertyValue("--ink");
      context.fillText(name, x, y + 1);
    }
    return layer;
  },

  /**
   * Where the names of the classes stand: at the middle of their digits, but moved off one another and inside
   * the map. Nowhere if they would cover much of it: the legend has them, too.
   */
  namePlaces(context) {
    if (this.mode === "plane" && latentDim === 1) return [];
    const { clientWidth, clientHeight } = this.canvas;
    context.font = `600 ${page.classes.length > 10 ? 13 : 15}px ${getComputedStyle(document.documentElement).getPropertyValue("--font")}`;
    const names = [];
    page.classes.forEach((full, label) => {
      const own = this.places.filter((_, i) => digits.labels[i] === label);
      if (!own.length) return;
      const [x, y] = [0, 1].map((axis) => own.map((place) => place[axis]).sort((a, b) => a - b)[own.length >> 1]);
      const letters = [...full];
      const name = letters.length > 16 ? `${letters.slice(0, 15).join("").trim()}…` : full;
      names.push({ name, x, y, half: context.measureText(name).width / 2 + 6 });
    });
    const covered = names.reduce((sum, { half }) => sum + 2 * half * NAME, 0);
    if (covered > 0.08 * clientWidth * clientHeight) return [];
    for (let round = 0; round < 50; round++) {
      names.forEach((a, i) => names.slice(i + 1).forEach((b) => {
        const across = a.half + b.half + 2 - Math.abs(b.x - a.x), down = NAME + 2 - Math.abs(b.y - a.y); // how much they overlap
        if (across <= 0 || down <= 0) return;
        const axis = across < down ? "x" : "y";
        const push = ((b[axis] < a[axis] ? -1 : 1) * Math.min(across, down)) / 2;
        a[axis] -= push;
        b[axis] += push;
      }));
      for (const name of names) {
        name.x = Math.max(name.half, Math.min(name.x, clientWidth - name.half));
        name.y = Math.max(NAME / 2, Math.min(name.y, clientHeight - NAME / 2));
      }
    }
    return names;
  },

  draw() {
    const { canvas, dots } = this;
    if (!dots) return;
    if (canvas.width !== dots.width || canvas.height !== dots.height) [canvas.width, canvas.height] = [dots.width, dots.height];
    const context = canvas.getContext("2d");
    const dense = window.devicePixelRatio || 1;
    const style = getComputedStyle(document.documentElement);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(dots, 0, 0);
    context.scale(dense, dense);
    if (written) this.mark(context, written.z, style.getPropertyValue("--second"), "you");
    this.mark(context, shown.z, style.getPropertyValue("--ink"), "");
    if (this.pointer) this.drawLoupe(context, this.pointer);
  },

  /** The picture once more, beside the pointer, so that the eye need not leave the map. */
  drawLoupe(context, [x, y]) {
    const { clientWidth, clientHeight } = this.canvas;
    const side = Math.min(112, clientWidth / 4), away = 22;
    const left = x + away + side < clientWidth ? x + away : x - away - side;
    const top = Math.min(Math.max(y - away - side, 4), clientHeight - side - 4);
    context.save();
    context.shadowColor = "rgb(0 0 0 / 35%)";
    context.shadowBlur = 12;
    context.fillStyle = "#000";
    context.beginPath();
    context.roundRect(left, top, side, side, 8);
    context.fill();
    context.shadowBlur = 0;
    context.clip();
    context.imageSmoothingEnabled = false;
    context.drawImage(element("decoded"), left, top, side, side);
    context.restore();
  },

  /** Where z falls: in a plane at its projection, in t-SNE, which knows no way there, at the nearest digit. */
  placeOf(z) {
    return this.mode === "tsne" ? this.places[nearestLatent(z)] : this.place(this.project(z));
  },

  /** A ring where z falls. */
  mark(context, z, stroke, text) {
    const [x, y] = this.placeOf(z);
    const paper = getComputedStyle(document.documentElement).getPropertyValue("--card");
    for (const [style, wide] of [[paper, 5], [stroke, 2.2]]) {
      context.strokeStyle = style;
      context.lineWidth = wide;
      context.beginPath();
      context.arc(x, y, 8, 0, 2 * Math.PI);
      context.stroke();
    }
    if (!text) return;
    context.font = `600 14px ${getComputedStyle(document.documentElement).getPropertyValue("--font")}`;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.lineWidth = 4;
    context.strokeStyle = paper;
    context.strokeText(text, x + 13, y);
    context.fillStyle = stroke;
    context.fillText(text, x + 13, y);
  },

  /** The digit nearest to a place on the canvas, and how many pixels away it is. */
  nearest([px, py]) {
    let best = 0, least = Infinity;
    this.places.forEach(([x, y], i) => {
      const distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return [best, Math.sqrt(least)];
  },

  /** What is at a place: in the plane its z, of two latents the present z with these there, in t-SNE the nearest digit. */
  stateAt(place) {
    if (this.mode === "tsne") return digitState(this.nearest(place)[0]);
    const where = this.coordinates(place);
    if (this.mode === "pair") return moved(this.pair, where);
    return { z: this.zAt(where), original: null, caption: `a point of the ${latentDim > 1 ? "plane" : "line"}` };
  },

  /** A click: the digit there, or the place itself if there is none, or where all but two latents are to stay. */
  choose(place, reach) {
    const [i, distance] = this.nearest(place);
    show(distance < reach && this.mode !== "pair" ? digitState(i) : this.stateAt(place));
  },

  setMode(mode) {
    this.mode = mode;
    this.cursor = null;
    const what = ["the latent", "the two latents"][latentDim - 1] ?? "the plane of the two leading directions of the latents";
    const [name, help] = {
      plane: [
        "Map of the latent plane with the test images",
        `Move over the map to decode ${what}; click on a dot to see its image. The ring is the present z. Arrow keys and Enter do the same.`,
      ],
      pair: [
        "Map of two latents with the test images",
        "Move over the map to change two latents and leave the others; click or drag to keep them there. The ring is the present z. Arrow keys move it, too.",
      ],
      tsne: [
        "t-SNE map of the test images",
        "Move over the map to see the nearest one and its reconstruction. The ring is the image nearest to the present z.",
      ],
    }[mode];
    this.canvas.setAttribute("aria-label", name);
    element("map-help").textContent = `Each dot is a test image. ${help}`;
    element("axes").hidden = mode !== "pair";
    this.layOut();
    this.draw();
  },
};

/** The test digit whose mu is nearest to z. */
function nearestLatent(z) {
  let best = 0, least = Infinity;
  for (let i = 0; i < count; i++) {
    let distance = 0;
    for (let j = 0; j < latentDim; j++) distance += (digits.mu[i * latentDim + j] - z[j]) ** 2;
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

/** Where a pointer is in an element, in pixels. */
function placeIn(target, event) {
  const box = target.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

/** The choice of the two latents. To choose the one that the other way has makes them change places. */
function makeAxes() {
  const selects = [element("across"), element("up")];
  selects.forEach((select, axis) => {
    for (const i of mostActive) select.add(new Option(`latent ${i}`, i));
    select.selectedIndex = axis;
    select.addEventListener("change", () => {
      const chosen = Number(select.value), other = 1 - axis;
      if (chosen === map.pair[other]) map.pair[other] = selects[other].value = map.pair[axis];
      map.pair[axis] = chosen;
      map.setMode("pair");
    });
  });
}

function listenToMap() {
  const { canvas } = map;
  let pressed = null;
  const look = (event) => {
    map.pointer = placeIn(canvas, event);
    show(map.stateAt(map.pointer), true);
  };
  const leave = () => {
    map.pointer = null;
    show(kept);
  };
  canvas.addEventListener("pointerdown", (event) => {
    pressed = placeIn(canvas, event);
    canvas.setPointerCapture(event.pointerId);
    look(event);
  });
  canvas.addEventListener("pointermove", look);
  canvas.addEventListener("pointerup", (event) => {
    const place = placeIn(canvas, event);
    const still = pressed && Math.hypot(place[0] - pressed[0], place[1] - pressed[1]) < 6;
    pressed = null;
    map.cursor = place;
    map.choose(place, still ? (event.pointerType === "mouse" ? 8 : 14) : 0);
  });
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("pointercancel", leave);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] }[event.key];
    if (!step && event.key !== "Enter") return;
    event.preventDefault();
    const size = [canvas.clientWidth, canvas.clientHeight];
    const start = (map.mode === "tsne" && map.cursor) || map.placeOf(kept.z);
    if (!step) return map.choose(start, Infinity);
    map.cursor = start.map((at, axis) => (step[axis] ? Math.min(Math.max(at + step[axis], 0), size[axis]) : at));
    show(map.stateAt(map.cursor));
  });
  const again = () => {
    map.layOut();
    map.draw();
  };
  new ResizeObserver(again).observe(canvas);
  for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)", "print"]) {
    matchMedia(query).addEventListener("change", again);
  }
}
