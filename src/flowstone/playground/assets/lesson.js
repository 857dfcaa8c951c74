// The lesson: a density of one variable, a map, and the density of its image, whose area stays one.

const bell = (x, middle, width) => Math.exp(-0.5 * ((x - middle) / width) ** 2) / (width * Math.sqrt(2 * Math.PI));

// Each density with the interval that holds all of it, up to 1e-7.
const DENSITIES = {
  bumps: { p: (x) => 0.3 * bell(x, -1.2, 0.35) + 0.7 * bell(x, 0.8, 0.55), support: [-4, 5] },
  normal: { p: (x) => bell(x, 0, 1), support: [-6, 6] },
  uniform: { p: (x) => (Math.abs(x) <= 1 + 1e-9 ? 0.5 : 0), support: [-1, 1] }, // an inverse rounds its edges
};

// Each map with its slope and its inverse, for a stretch a and a shift b, and as text.
const MAPS = {
  affine: {
    a: "stretch a",
    range: [0.25, 3],
    f: (x, a, b) => a * x + b,
    slope: (x, a) => a,
    inverse: (z, a, b) => (z - b) / a,
    text: "a · x + b",
    slopeText: "a",
  },
  kink: {
    a: "slope a below 0",
    range: [0.25, 3],
    f: (x, a, b) => (x < 0 ? a * x : x) + b,
    slope: (x, a) => (x < 0 ? a : 1),
    inverse: (z, a, b) => (z < b ? (z - b) / a : z - b),
    jumps: [-1e-9, 0], // places on both sides of the kink, where the density of z jumps
    text: "x + b where x ≥ 0, a · x + b below",
    slopeText: "1 where x ≥ 0, a below",
  },
  tanh: {
    a: "bend a",
    range: [0.2, 0.8],
    f: (x, a, b) => Math.tanh(a * x) / a + b,
    slope: (x, a) => 1 - Math.tanh(a * x) ** 2,
    inverse: (z, a, b) => Math.atanh(a * (z - b)) / a,
    text: "tanh(a · x) / a + b",
    slopeText: "1 − tanh(a · x)²",
  },
  exponential: {
    a: "bend a",
    range: [0.2, 1],
    f: (x, a, b) => Math.expm1(a * x) / a + b,
    slope: (x, a) => Math.exp(a * x),
    inverse: (z, a, b) => Math.log1p(a * (z - b)) / a,
    text: "(exp(a · x) − 1) / a + b",
    slopeText: "exp(a · x)",
  },
};

// The area under a line through points [[x, y], …].
function areaUnder(points) {
  let area = 0;
  for (let index = 1; index < points.length; index += 1) {
    const [[x0, y0], [x1, y1]] = [points[index - 1], points[index]];
    area += ((y0 + y1) / 2) * (x1 - x0);
  }
  return area;
}

function startLesson(root) {
  const find = (name) => root.querySelector(`.flowstone-${name}`);
  const PLACES = 4000; // of the curves; the areas are those under the lines that are drawn
  const SLICE = 0.4; // width of the slice of x
  const [WIDE, TALL] = [[-4.5, 4.5], [-4.5, 4.5]]; // what is shown of x and of z, at the same scale
  const curves = {};
  const now = () => {
    const kind = MAPS[find("kind").value];
    const [a, b] = [Number(find("a").value), Number(find("b").value)];
    return {
      kind, a, b, at: Number(find("at").value), density: DENSITIES[find("density").value],
      f: (x) => kind.f(x, a, b), slope: (x) => kind.slope(x, a, b), inverse: (z) => kind.inverse(z, a, b),
    };
  };

  // The density of z at z: that of x where it comes from, over the slope there.
  function densityOfZ({ density, slope, inverse }, z) {
    const x = inverse(z);
    return density.p(x) / slope(x);
  }

  // Points of both densities between two values of x.
  function curvesBetween(lesson, low, high, places) {
    const xs = Array.from({ length: places + 1 }, (_, index) => low + ((high - low) * index) / places);
    xs.push(...(lesson.kind.jumps ?? []).filter((x) => low < x && x < high));
    xs.sort((one, other) => one - other);
    // Both lines begin and end on their axis, which adds no area.
    const closed = (points) => [[points[0][0], 0], ...points, [points.at(-1)[0], 0]];
    return {
      x: closed(xs.map((x) => [x, lesson.density.p(x)])),
      z: closed(xs.map((x) => { const z = lesson.f(x); return [z, densityOfZ(lesson, z)]; })),
    };
  }

  // The part of the slice in which x has density.
  function sliceOf({ density, at }) {
    const [low, high] = density.support;
    const ends = [at - SLICE / 2, at + SLICE / 2].map((end) => Math.min(Math.max(end, low), high));
    return ends[1] > ends[0] ? ends : [at - SLICE / 2, at + SLICE / 2];
  }

  function fill(picture, points, colour, alpha, upright) {
    const { pen } = picture;
    const shown = upright ? points.map(([z, p]) => [p, z]) : points;
    pen.fillStyle = colour;
    pen.globalAlpha = alpha;
    pen.beginPath();
    for (const [x, y] of shown) pen.lineTo(picture.x(x), picture.y(y));
    pen.fill();
    pen.globalAlpha = 1;
  }

  const top = (points) => Math.max(0.85, 1.08 * Math.max(...points.map((point) => (Number.isFinite(point[1]) ? point[1] : 0))));

  const ofX = new Picture(root, find("x-density"), 2, (picture) => {
    picture.begin({ x: WIDE, y: [0, top(curves.x)] }, { xLabel: "x", yTicks: false });
    fill(picture, curves.x, picture.theme.accent, 0.25, false);
    fill(picture, curves.slice.x, picture.theme.second, 0.7, false);
    picture.path(curves.x, picture.theme.accent, 2);
    picture.end();
  });

  const ofZ = new Picture(root, find("z-density"), 0.5, (picture) => {
    picture.begin({ x: [top(curves.z), 0], y: TALL }, { yLabel: "z", xTicks: false });
    fill(picture, curves.z, picture.theme.accent, 0.25, true);
    fill(picture, curves.slice.z, picture.theme.second, 0.7, true);
    picture.path(curves.z.map(([z, p]) => [p, z]), picture.theme.accent, 2);
    picture.end();
  });

  const map = new Picture(root, find("map"), 1, (picture) => {
    const { theme } = picture;
    const lesson = now();
    picture.begin({ x: WIDE, y: TALL }, { xTicks: false, yTicks: false });
    picture.path([[WIDE[0], 0], [WIDE[1], 0]], theme.line, 1);
    picture.path([[0, TALL[0]], [0, TALL[1]]], theme.line, 1);
    // The slice goes up to the curve, and from there to the left.
    const [low, high] = sliceOf(lesson);
    picture.pen.globalAlpha = 0.25;
    picture.pen.fillStyle = theme.second;
    for (const outline of [
      [[low, TALL[0]], [high, TALL[0]], [high, lesson.f(high)], [low, lesson.f(low)]],
      [[WIDE[0], lesson.f(low)], [WIDE[0], lesson.f(high)], [high, lesson.f(high)], [low, lesson.f(low)]],
    ]) {
      picture.pen.beginPath();
      for (const [x, z] of outline) picture.pen.lineTo(picture.x(x), picture.y(z));
      picture.pen.fill();
    }
    picture.pen.globalAlpha = 1;
    picture.pen.fillStyle = theme.muted;
    picture.pen.textAlign = "left";
    picture.pen.fillText("z = f(x)", picture.edge.left + 6, picture.edge.top + 12);
    const line = Array.from({ length: 401 }, (_, index) => WIDE[0] + ((WIDE[1] - WIDE[0]) * index) / 400).map((x) => [x, lesson.f(x)]);
    picture.path(line, theme.ink, 2.5);
    picture.dot(lesson.at, lesson.f(lesson.at), 5, theme.second);
    picture.end();
  });

  function write(name, text) {
    root.querySelector(`[data-line="${name}"]`).textContent = text;
  }

  function update() {
    const lesson = now();
    Object.assign(curves, curvesBetween(lesson, ...lesson.density.support, PLACES));
    curves.slice = curvesBetween(lesson, ...sliceOf(lesson), 200);
    for (const of of ["x", "z"]) {
      const counter = root.querySelector(`[data-of="${of}"]`);
      const area = areaUnder(curves[of]);
      counter.dataset.value = String(area);
      if (counter.textContent !== area.toFixed(3)) counter.textContent = area.toFixed(3);
    }
    const { kind, a, b, at, f, slope, density } = lesson;
    const [z, px, pz] = [f(at), density.p(at), densityOfZ(lesson, f(at))];
    const [low, high] = sliceOf(lesson);
    const three = (value) => decimals(value, 3);
    write("map", `z = ${kind.text}; with a = ${three(a)}, b = ${three(b)}, x = ${three(at)} goes to z = ${three(z)}`);
    write("slope", `f′(x) = ${kind.slopeText} = ${three(slope(at))}`);
    write("density", `${three(px)} = ${three(pz)} · ${three(slope(at))}`);
    write("log", px > 0 ? `${three(Math.log(px))} = ${three(Math.log(pz))} ${slope(at) < 1 ? "−" : "+"} ${three(Math.abs(Math.log(slope(at))))}` : "no density here");
    for (const [of, width] of [["x", high - low], ["z", f(high) - f(low)]]) {
      const area = areaUnder(curves.slice[of]);
      write(`slice-${of}`, `width ${three(width)} · mean height ${three(area / width)} = area ${three(area)}`);
    }
    for (const picture of [ofX, ofZ, map]) picture.redraw();
  }

  function setKind() {
    const kind = MAPS[find("kind").value];
    [find("a").min, find("a").max] = kind.range;
    find("a-name").textContent = kind.a;
    find("a").value = String(find("kind").value === "affine" ? 2 : kind.range[0] + 0.4 * (kind.range[1] - kind.range[0]));
    update();
  }

  // Drag a canvas: `move(from, to)` is given the values under the pointer before and after.
  function onDrag(picture, move) {
    let from = null;
    picture.canvas.addEventListener("pointerdown", (event) => {
      from = picture.valueAt(event);
      picture.canvas.setPointerCapture(event.pointerId);
      move(from, from);
    });
    picture.canvas.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const to = picture.valueAt(event);
      move(from, to);
      from = to;
    });
    for (const end of ["pointerup", "pointercancel"]) picture.canvas.addEventListener(end, () => { from = null; });
  }

  const set = (name, value) => { find(name).value = String(value); update(); };
  onDrag(map, ([x0, z0], [x1, z1]) => {
    find("a").value = String(Number(find("a").value) * Math.exp(0.4 * (x1 - x0)));
    set("b", Number(find("b").value) + z1 - z0);
  });
  onDrag(ofX, (_, [x]) => set("at", x));
  onDrag(ofZ, (_, [, z]) => { const x = now().inverse(z); if (Number.isFinite(x)) set("at", x); });
  for (const name of ["a", "b", "at", "density"]) find(name).addEventListener("input", update);
  find("kind").addEventListener("input", setKind);
  update();
}

for (const root of document.querySelectorAll(".flowstone-lesson:not([data-ready])")) {
  root.dataset.ready = "true";
  startLesson(root);
}
