// The walk: points and a grid between the layers of a flow, and the terms of the log-density of one of them.

function startWalk(root) {
  const data = JSON.parse(root.querySelector(".flowstone-data").textContent);
  const find = (name) => root.querySelector(`.flowstone-${name}`);
  const last = data.layers.length; // the stop of the latent
  const sets = {};
  for (const [name, set] of Object.entries(data.sets)) {
    sets[name] = {
      count: set.count,
      places: floatsOf(set.places), // (stop, point, axis), from -1 to 1 within the view of its stop
      logDets: floatsOf(set.logDets), // (layer, point)
      logPrior: floatsOf(set.logPrior),
    };
  }
  const latentGrid = floatsOf(data.latentGrid);
  const state = { at: 0, forward: true, chosen: { set: "data", index: 0 } };

  // Where a point is between two stops, in units of the view.
  function place(places, count, index, at) {
    const before = Math.min(Math.floor(at), last - 1);
    const part = at - before;
    return [0, 1].map((axis) => {
      const from = places[2 * (before * count + index) + axis];
      const to = places[2 * ((before + 1) * count + index) + axis];
      return from + (to - from) * part;
    });
  }

  // The same in the numbers of a stop: the units of the data at 0, those of the latent at the end.
  function valueOf(chosen, stop) {
    const { places, count } = sets[chosen.set];
    const view = data.views[stop];
    return [0, 1].map((axis) => view.middle[axis] + view.half[axis] * places[2 * (stop * count + chosen.index) + axis]);
  }

  // The frame between two stops lies between their frames.
  function viewAt(at) {
    const before = Math.min(Math.floor(at), last - 1);
    const [from, to] = [data.views[before], data.views[before + 1]];
    const range = (axis) => {
      const middle = from.middle[axis] + (to.middle[axis] - from.middle[axis]) * (at - before);
      const half = from.half[axis] + (to.half[axis] - from.half[axis]) * (at - before);
      return [middle - half, middle + half];
    };
    return { x: range(0), y: range(1) };
  }

  // Places are in units of the view, ticks in its numbers.
  function inView(view, [u, v]) {
    return [view.x, view.y].map(([low, high], axis) => (low + high) / 2 + ([u, v][axis] * (high - low)) / 2);
  }

  const shownSet = () => (state.forward ? "data" : "samples");

  // Points have the colour of their first coordinate in the data, by its rank, so that all colours come equally often.
  const firsts = Array.from({ length: sets.data.count }, (_, index) => sets.data.places[2 * index]).sort((a, b) => a - b);
  const colourPart = (place) => rankAmong(firsts, place);

  const plane = new Picture(root, find("plane"), 1, (picture) => {
    const { theme, pen } = picture;
    const view = viewAt(state.at);
    const names = state.at === 0 ? data.columns : state.at === last ? ["z1", "z2"] : ["coordinate 1", "coordinate 2"];
    picture.begin(view, { xLabel: names[0], yLabel: names[1] });
    const grid = state.forward ? sets.grid.places : latentGrid;
    for (let line = 0; line < 2 * data.lines; line += 1) {
      const points = [];
      for (let step = 0; step < data.onLine; step += 1) {
        points.push(inView(view, place(grid, sets.grid.count, line * data.onLine + step, state.at)));
      }
      picture.path(points, theme.line, 1);
    }
    const set = sets[shownSet()];
    for (let index = 0; index < set.count; index += 1) {
      const [x, y] = inView(view, place(set.places, set.count, index, state.at));
      picture.dot(x, y, 3, theme.point(colourPart(set.places[2 * index])), 0.9);
    }
    const { chosen } = state;
    const of = sets[chosen.set];
    const [x, y] = inView(view, place(of.places, of.count, chosen.index, state.at));
    picture.ring(x, y, 7, theme.second);
    picture.dot(x, y, 3, theme.second);
    pen.globalAlpha = 1;
    picture.end();
  });

  // The places that can be chosen, as [set, index, u, v].
  function candidates() {
    const found = [];
    for (const name of [shownSet(), "grid"]) {
      for (let index = 0; index < sets[name].count; index += 1) {
        found.push([name, index, ...place(sets[name].places, sets[name].count, index, state.at)]);
      }
    }
    return found;
  }

  function choose(set, index, distance = null) {
    state.chosen = { set, index };
    showLedger(distance);
    plane.redraw();
  }

  find("plane").addEventListener("click", (event) => {
    const view = viewAt(state.at);
    const value = plane.valueAt(event);
    const [u, v] = [view.x, view.y].map(([low, high], axis) => (2 * (value[axis] - low)) / (high - low) - 1);
    const far = ([, , a, b]) => Math.hypot(a - u, b - v);
    // A point is taken before a place of the grid that is hardly nearer.
    const cost = (each) => far(each) + (each[0] === "grid" ? 0.02 : 0);
    const nearest = candidates().reduce((best, each) => (cost(each) < cost(best) ? each : best));
    const here = inView(view, [nearest[2], nearest[3]]);
    choose(nearest[0], nearest[1], Math.hypot(here[0] - value[0], here[1] - value[1]));
  });

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
  find("plane").addEventListener("keydown", (event) => {
    const way = ARROWS[event.key];
    if (!way) return;
    event.preventDefault();
    const { set, index } = state.chosen;
    const [u, v] = place(sets[set].places, sets[set].count, index, state.at);
    let best = null;
    for (const each of candidates()) {
      const [along, aside] = [(each[2] - u) * way[0] + (each[3] - v) * way[1], Math.abs((each[2] - u) * way[1]) + Math.abs((each[3] - v) * way[0])];
      const inside = Math.max(Math.abs(each[2]), Math.abs(each[3])) <= 1;
      if (along > 1e-6 && aside <= along && inside && (!best || along + aside < best.cost)) best = { each, cost: along + aside };
    }
    if (best) choose(best.each[0], best.each[1]);
  });

  const cell = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
  const pair = ([x, y]) => `(${digits(x, 3)}, ${digits(y, 3)})`;
  const rangeOf = (axis) => [-1, 1].map((end) => data.views[0].middle[axis] + end * data.views[0].half[axis]);
  const equal = (name, value) => `${name}\u00a0=\u00a0${value}`; // on one line
  const rowIn = (part) => (name) => {
    const row = document.createElement("tr");
    const head = cell("th", name);
    head.scope = "row";
    row.append(head, cell("td", ""), cell("td", ""));
    find("ledger").querySelector(part).append(row);
    return row;
  };
  const rows = data.layers.map(rowIn("tbody"));
  const totals = ["sum of log-dets", "log prior of z", "log p"].map(rowIn("tfoot"));

  // The terms of log p of the chosen place, and their sum.
  function showLedger(distance = null) {
    const { set, index } = state.chosen;
    const { logDets, logPrior, count } = sets[set];
    let sum = 0;
    rows.forEach((row, layer) => {
      const logDet = logDets[layer * count + index];
      sum += logDet;
      row.children[1].textContent = pair(valueOf(state.chosen, layer + 1));
      row.children[2].textContent = decimals(logDet);
    });
    const logP = sum + logPrior[index];
    [sum, logPrior[index], logP].forEach((value, row) => { totals[row].children[2].textContent = decimals(value); });
    totals[1].children[1].textContent = pair(valueOf(state.chosen, last));
    const kind = { data: "A row of the data", samples: "A sample", grid: "A place of the grid" }[set];
    const [x, y] = valueOf(state.chosen, 0);
    const away = distance === null ? "" : `, ${digits(distance, 2)} from the click, the nearest that is computed`;
    find("chosen").textContent =
      `${kind}${away}: ${equal(data.columns[0], within(x, rangeOf(0)))}, ${equal(data.columns[1], within(y, rangeOf(1)))}. ` +
      `${equal("log\u00a0p", decimals(logP))} nats, density ${digits(Math.exp(logP), 3)}.`;
    Object.assign(root.dataset, { chosen: set, place: JSON.stringify([x, y]), logP: String(logP) });
  }

  // Where the slider stands, in words and as a marked row of the table.
  function showWhere() {
    const layer = Math.ceil(state.at - 1e-9);
    rows.forEach((row, index) => row.classList.toggle("flowstone-current", index === layer - 1));
    const text =
      state.at === 0 ? "The data, in their own units" :
      state.at === last ? "The latent: after the last layer" :
      Number.isInteger(state.at) ? `After ${data.layers[layer - 1]}` : `In ${data.layers[layer - 1]}`;
    if (find("where").textContent !== text) find("where").textContent = text;
    find("layer").setAttribute("aria-valuetext", text);
  }

  const layers = new Player(find("layer"), find("play"), {
    last,
    seconds: Math.min(Math.max(0.8 * last, 3), 14),
    show: (value) => {
      // Near a stop the slider shows the stop itself.
      state.at = Math.abs(value - Math.round(value)) < 0.03 ? Math.round(value) : value;
      showWhere();
      plane.redraw();
    },
  });
  for (const button of root.querySelectorAll("[data-direction]")) {
    button.addEventListener("click", () => {
      layers.stop();
      state.forward = button.dataset.direction === "forward";
      layers.backwards = !state.forward;
      for (const each of root.querySelectorAll("[data-direction]")) each.setAttribute("aria-pressed", String(each === button));
      choose(shownSet(), 0);
      layers.set(state.forward ? 0 : last);
    });
  }
  choose("data", 0);
  showWhere();
  if (data.training) startTraining(root, find, data, sets.data, colourPart);
}

// The second slider: samples of the moments of the training, and the validation loss beside them.
function startTraining(root, find, data, rows, colourPart) {
  const { steps, valNll, count } = data.training;
  const samples = floatsOf(data.training.samples);
  const last = steps.length; // after the frames come the weights that were kept
  const state = { at: 0 };
  const view = {
    x: [data.views[0].middle[0] - data.views[0].half[0], data.views[0].middle[0] + data.views[0].half[0]],
    y: [data.views[0].middle[1] - data.views[0].half[1], data.views[0].middle[1] + data.views[0].half[1]],
  };
  const value = (part, axis) => data.views[0].middle[axis] + data.views[0].half[axis] * part;
  find("training").hidden = false;

  const moments = new Picture(root, find("moments"), 1, (picture) => {
    const { theme } = picture;
    picture.begin(view, { xLabel: data.columns[0], yLabel: data.columns[1] });
    for (let index = 0; index < rows.count; index += 1) {
      picture.dot(value(rows.places[2 * index], 0), value(rows.places[2 * index + 1], 1), 2.5, theme.muted, 0.4);
    }
    const before = Math.min(Math.floor(state.at), last - 1);
    const part = state.at - before;
    for (let index = 0; index < count; index += 1) {
      const [x, y] = [0, 1].map((axis) => {
        const from = samples[2 * (before * count + index) + axis];
        const to = samples[2 * ((before + 1) * count + index) + axis];
        return value(from + (to - from) * part, axis);
      });
      // A sample keeps the colour of where it ends.
      picture.dot(x, y, 3, theme.point(colourPart(samples[2 * (last * count + index)])), 0.9);
    }
    picture.end();
  });

  const losses = valNll.filter((loss) => loss !== null);
  const curve = new Picture(root, find("curve"), 1.25, (picture) => {
    const { theme } = picture;
    const [low, high] = [Math.min(...losses), Math.max(...losses)];
    const room = 0.08 * (high - low || 1);
    // Steps are drawn by their logarithm, as most happens at the start.
    const place = (step) => Math.log10(1 + step);
    const end = place(steps[last - 1]) || 1;
    picture.begin({ x: [-0.04 * end, end * 1.04], y: [low - room, high + room] }, { yLabel: "validation NLL (nats)", xTicks: false });
    picture.path(steps.flatMap((step, frame) => (valNll[frame] === null ? [] : [[place(step), valNll[frame]]])), theme.muted, 1.5);
    steps.forEach((step, frame) => {
      if (valNll[frame] !== null) picture.dot(place(step), valNll[frame], 3, theme.muted);
    });
    const nearest = Math.min(Math.round(state.at), last - 1);
    if (valNll[nearest] !== null) picture.ring(place(steps[nearest]), valNll[nearest], 6, theme.second);
    picture.end();
    picture.pen.fillStyle = theme.muted;
    picture.pen.textAlign = "right";
    picture.pen.fillText("step (logarithmic) →", picture.edge.right, picture.height - 8);
  });

  function words(at) {
    const frame = Math.min(Math.round(at), last);
    if (frame === last) return "The weights that were kept: the best on validation";
    const loss = valNll[frame];
    return `Step ${steps[frame].toLocaleString("en")}: validation NLL ${loss === null ? "not finite" : decimals(loss, 3)} nats`;
  }

  const player = new Player(find("moment"), find("play-training"), {
    last,
    seconds: Math.max(3, 0.6 * last),
    show: (at) => {
      state.at = at;
      if (find("when").textContent !== words(at)) find("when").textContent = words(at);
      find("moment").setAttribute("aria-valuetext", words(at));
      moments.redraw();
      curve.redraw();
    },
  });
  player.set(0);
}

for (const root of document.querySelectorAll(".flowstone-walk:not([data-ready])")) {
  root.dataset.ready = "true";
  startWalk(root);
}
