// The page of the model: samples, the density over the plane and under the pointer, and latents.

// A range with a little room around nearly all numbers.
function rangeOf(numbers, room = 0.12) {
  const sorted = numbers.filter(Number.isFinite).sort((a, b) => a - b);
  const [low, high] = [0.002, 0.998].map((part) => sorted[Math.round(part * (sorted.length - 1))]);
  const width = high - low || 1;
  return [low - room * width, high + room * width];
}

function startModel(root, model) {
  const data = JSON.parse(root.querySelector(".flowstone-data").textContent);
  const find = (name) => root.querySelector(`.flowstone-${name}`);
  const { features } = model;
  const columnOf = (values, column) => Array.from({ length: values.length / features }, (_, row) => values[row * features + column]);
  const rows = model.record.rows;
  const ranges = data.columns.map((_, column) => rangeOf(columnOf(rows, column)));
  const state = { seed: data.seed, x: [], z: [], logProb: [], place: null, heat: null, axes: [0, Math.min(1, features - 1)], drawing: 0 };
  const GRID = 96; // places of the density along each side
  const CURVE = 400; // places of the curve of one column

  // Samples at the temperature of the slider; their latents are the same until new ones are drawn.
  async function drawSamples() {
    const turn = (state.drawing += 1);
    const count = Number(find("count").value);
    const z = model.latents(count, Number(find("temperature").value), randomOf(state.seed));
    const x = await model.fromLatent(z);
    const logProb = features > 2 ? (await model.logProb(x)).logProb : [];
    if (turn !== state.drawing) return; // others were asked for meanwhile
    Object.assign(state, { x, z, logProb });
    root.dataset.samples = String(count);
    plane.redraw();
    latent.redraw();
  }

  // The density over the plane, a few rows of places at a time, so that the page answers meanwhile.
  async function computeHeat() {
    const [[left, right], [bottom, top]] = ranges;
    const values = new Float64Array(GRID * GRID);
    const rowsAtOnce = 8;
    for (let first = 0; first < GRID; first += rowsAtOnce) {
      const places = [];
      for (let row = first; row < first + rowsAtOnce; row += 1) {
        for (let column = 0; column < GRID; column += 1) {
          places.push(left + ((column + 0.5) / GRID) * (right - left), top - ((row + 0.5) / GRID) * (top - bottom));
        }
      }
      const { logProb } = await model.logProb(places);
      logProb.forEach((value, index) => { values[first * GRID + index] = Number.isFinite(value) ? Math.exp(value) : 0; });
      await new Promise((next) => setTimeout(next));
    }
    // A few very high places would leave the rest dark.
    const highest = [...values].sort((a, b) => a - b)[Math.floor(0.998 * (values.length - 1))] || 1;
    const image = new ImageData(GRID, GRID);
    values.forEach((value, index) => image.data.set([...viridis(value / highest), 255], 4 * index));
    const canvas = Object.assign(document.createElement("canvas"), { width: GRID, height: GRID });
    canvas.getContext("2d").putImageData(image, 0, 0);
    state.heat = canvas;
    root.dataset.heat = "ready";
    plane.redraw();
  }

  async function computeCurve() {
    const [low, high] = ranges[0];
    const places = Array.from({ length: CURVE }, (_, index) => low + ((high - low) * index) / (CURVE - 1));
    const { logProb } = await model.logProb(places);
    state.curve = places.map((place, index) => [place, Math.exp(logProb[index])]);
    root.dataset.heat = "ready";
    plane.redraw();
  }

  const shows = (name) => find(`show-${name}`).checked;
  const view = () => (features === 1 ? { x: ranges[0], y: [0, 1.3 * Math.max(...(state.curve ?? [[0, 1]]).map((point) => point[1]))] } : { x: ranges[state.axes[0]], y: ranges[state.axes[1]] });

  function drawCurve(picture) {
    const { theme, pen, edge } = picture;
    const [low, high] = ranges[0];
    const bins = 60;
    for (const [name, values, colour] of [["rows", rows, theme.muted], ["samples", state.x, theme.accent]]) {
      if (!shows(name) || !values.length) continue;
      const counts = new Array(bins).fill(0);
      for (const value of values) {
        const bin = Math.floor((bins * (value - low)) / (high - low));
        if (bin >= 0 && bin < bins) counts[bin] += 1;
      }
      pen.fillStyle = colour;
      pen.globalAlpha = 0.4;
      counts.forEach((count, bin) => {
        const height = (count / values.length) * (bins / (high - low));
        const [x0, x1] = [picture.x(low + ((high - low) * bin) / bins), picture.x(low + ((high - low) * (bin + 1)) / bins)];
        pen.fillRect(x0, picture.y(height), x1 - x0 - 1, edge.bottom - picture.y(height));
      });
      pen.globalAlpha = 1;
    }
    if (shows("density") && state.curve) picture.path(state.curve, theme.ink, 2);
    if (state.place) {
      picture.path([[state.place.x[0], 0], [state.place.x[0], Math.exp(state.place.logProb)]], theme.second, 2);
      picture.dot(state.place.x[0], Math.exp(state.place.logProb), 5, theme.second);
    }
  }

  // The colour of a sample: the rank of its first column on the plane, elsewhere that of its log-density.
  function sampleColours() {
    const values = features > 2 ? state.logProb : columnOf(state.x, 0);
    const sorted = [...values].sort((a, b) => a - b);
    return values.map((value) => rankAmong(sorted, value));
  }

  const plane = new Picture(root, find("plane"), 1, (picture) => {
    const { theme, pen } = picture;
    const [across, up] = state.axes;
    picture.begin(view(), { xLabel: data.columns[across], yLabel: features === 1 ? "density" : data.columns[up] });
    if (features === 1) {
      drawCurve(picture);
      picture.end();
      return;
    }
    const heated = features === 2 && state.heat && shows("density");
    if (heated) {
      pen.imageSmoothingEnabled = true;
      const { left, right, top, bottom } = picture.edge;
      pen.drawImage(state.heat, left, top, right - left, bottom - top);
    }
    if (shows("rows")) {
      for (let row = 0; row < rows.length / features; row += 1) {
        picture.dot(rows[row * features + across], rows[row * features + up], 2.5, heated ? "#ffb380" : theme.muted, 0.7);
      }
    }
    if (shows("samples")) {
      const colours = heated ? null : sampleColours();
      for (let row = 0; row < state.x.length / features; row += 1) {
        picture.dot(state.x[row * features + across], state.x[row * features + up], heated ? 1.6 : 2.5, heated ? "#ffffff" : theme.point(colours[row]), 0.75);
      }
    }
    if (state.place) picture.ring(state.place.x[across], state.place.x[up], 7, theme.second);
    picture.end();
  });

  // One column has a latent line, others are shown by the first two of their latents.
  const latent = new Picture(root, find("latent"), 1.35, (picture) => {
    const { theme } = picture;
    const up = Math.min(1, features - 1);
    const reach = Math.max(3.2, ...rangeOf(state.z.length ? state.z : [-3, 3], 0).map(Math.abs));
    const tall = features === 1 ? [-1, 1] : [-reach, reach];
    picture.begin({ x: [-1.1 * reach, 1.1 * reach], y: tall.map((end) => 1.05 * end) }, { xLabel: "z1", yLabel: features === 1 ? "" : "z2", yTicks: features > 1 });
    const colours = sampleColours();
    const height = randomOf(1); // points of a line lie beside each other by chance
    for (let row = 0; row < state.z.length / features; row += 1) {
      const y = features === 1 ? 1.6 * height() - 0.8 : state.z[row * features + up];
      picture.dot(state.z[row * features], y, 2.2, theme.point(colours[row]), 0.8);
    }
    if (state.place) picture.ring(state.place.z[0], features === 1 ? 0 : state.place.z[up], 7, theme.second);
    picture.end();
  });

  // The numbers of a place; of several places that are asked for while one is computed only the last one counts.
  async function showPlace(x) {
    state.wanted = x;
    if (state.busy) return;
    state.busy = true;
    while (state.wanted) {
      const place = state.wanted;
      state.wanted = null;
      const { logProb, z } = await model.logProb(place);
      state.place = { x: place, z, logProb: logProb[0] };
    }
    state.busy = false;
    const { place } = state;
    const named = data.columns.map((name, column) => `${name}\u00a0=\u00a0${within(place.x[column], ranges[column])}`).slice(0, 8).join(", ");
    const more = data.columns.length > 8 ? ", …" : "";
    find("readout").textContent =
      `${named}${more}. log\u00a0p\u00a0=\u00a0${decimals(place.logProb)} nats, density ${digits(Math.exp(place.logProb), 3)}; latent (${place.z.slice(0, 8).map((value) => digits(value, 3)).join(", ")}${more}).`;
    Object.assign(root.dataset, { place: JSON.stringify(place.x), logP: String(place.logProb) });
    plane.redraw();
    latent.redraw();
  }

  // The place under a pointer: itself in one or two columns, else the nearest sample.
  function placeAt(value) {
    if (features === 1) return [value[0]];
    if (features === 2) return value;
    const [across, up] = state.axes;
    const { x, y } = view();
    let best = 0;
    let least = Infinity;
    for (let row = 0; row < state.x.length / features; row += 1) {
      const far = Math.hypot((state.x[row * features + across] - value[0]) / (x[1] - x[0]), (state.x[row * features + up] - value[1]) / (y[1] - y[0]));
      if (far < least) [best, least] = [row, far];
    }
    return state.x.slice(best * features, (best + 1) * features);
  }

  const onPlane = (event) => { if (plane.view) showPlace(placeAt(plane.valueAt(event))); };
  find("plane").addEventListener("pointermove", onPlane);
  find("plane").addEventListener("click", onPlane);
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
  find("plane").addEventListener("keydown", (event) => {
    const way = ARROWS[event.key];
    if (!way || !state.place) return;
    event.preventDefault();
    const { x, y } = view();
    const [across, up] = state.axes;
    const step = features > 2 ? 0.04 : 0.02;
    const to = [state.place.x[across] + step * way[0] * (x[1] - x[0]), features === 1 ? 0 : state.place.x[up] + step * way[1] * (y[1] - y[0])];
    showPlace(placeAt(to));
  });

  find("draw").addEventListener("click", () => { state.seed += 1; drawSamples(); });
  find("count").addEventListener("change", drawSamples);
  const showDegree = () => { find("degree").textContent = Number(find("temperature").value).toFixed(2); };
  find("temperature").addEventListener("input", () => { showDegree(); drawSamples(); });
  for (const name of ["samples", "rows", "density"]) find(`show-${name}`).addEventListener("change", plane.redraw);
  if (features > 2) {
    find("heat").hidden = true;
    for (const [axis, name] of [[0, "across"], [1, "up"]]) {
      const choice = find(name);
      choice.parentElement.hidden = false;
      choice.append(...data.columns.map((column, index) => new Option(column, index, false, index === state.axes[axis])));
      choice.addEventListener("change", () => { state.axes[axis] = Number(choice.value); plane.redraw(); });
    }
  }
  find("colours").textContent = features > 2 ?
    "The colour of a sample is its log-density, dark where that is low among them." :
    "A latent has the colour of the first column of its sample.";
  showDegree();
  find("live").hidden = false;
  const middle = rows.slice(0, features);
  drawSamples().then(() => showPlace(middle));
  if (features === 1) computeCurve();
  if (features === 2) computeHeat();
}

const MOST_DIFFERENCE = 1e-2; // nats; float32 rounds to far less, a program that computes something else is further off

async function openModel(root) {
  const status = root.querySelector(".flowstone-status");
  try {
    const model = await Model.load();
    const difference = await model.difference();
    if (!(difference < MOST_DIFFERENCE)) throw new Error(`it gives other log-densities here than in Python, by up to ${digits(difference, 3)} nats`);
    status.textContent = `The model runs in this page. Its log-densities of ${model.record.logProb.length} rows are those of Python to ${digits(difference, 2)} nats.`;
    root.model = model;
    startModel(root, model);
    root.dataset.state = "ready";
  } catch (error) {
    status.dataset.kind = "error";
    status.textContent = `The model cannot run in this page: ${error.message}`;
    root.dataset.state = "failed";
  }
}

// The model is loaded when it is first seen, as it is large.
for (const root of document.querySelectorAll(".flowstone-model:not([data-state])")) {
  root.dataset.state = "waiting";
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    openModel(root);
  });
  seen.observe(root);
}
