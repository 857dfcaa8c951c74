// What the sections share: numbers from text, colours of the theme, and axes on a canvas.

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// The float32 numbers that Python wrote as base64.
function floatsOf(text) {
  return new Float32Array(bytesOf(text).buffer);
}

// A number with so many significant digits, with a true minus sign.
function digits(value, count = 4) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "not a number";
  const size = Math.abs(value);
  const text = size !== 0 && (size >= 1e6 || size < 1e-4) ? value.toExponential(count - 1) : String(Number(value.toPrecision(count)));
  return text.replace("-", "−");
}

// A number with so many decimals, in columns that add up.
function decimals(value, count = 4) {
  return Number.isFinite(value) ? value.toFixed(count).replace("-", "−") : digits(value);
}

// A number as precise as a ten-thousandth of the range it comes from, such as a time in seconds within a month.
function within(value, [low, high]) {
  const decimalsOf = 4 - Math.ceil(Math.log10(high - low));
  return decimalsOf > 15 || Math.abs(value) >= 1e15 ? digits(value, 6) : decimals(value, Math.max(0, decimalsOf));
}

// Numbers between 0 and 1 that depend on the seed alone (mulberry32).
function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

// The part of sorted numbers that is below a value: as a colour it comes equally often, however skewed the numbers are.
function rankAmong(sorted, value) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low / sorted.length;
}

// The colour map viridis, which keeps its order for colour-blind readers.
const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 73, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37],
];

function viridis(part) {
  const at = Math.min(Math.max(part, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((value, channel) => Math.round(value + (VIRIDIS[low + 1][channel] - value) * (at - low)));
}

// The colours of the theme that holds at present.
function themeOf(root) {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(`--fs-${name}`).trim();
  const dark = colour("dark") === "1";
  return {
    ink: colour("ink"), muted: colour("muted"), paper: colour("paper"), line: colour("line"),
    accent: colour("accent"), second: colour("second"), dark,
    // The ends of viridis that cannot be seen on this background are left out.
    point: (part) => `rgb(${viridis(dark ? 0.22 + 0.78 * part : 0.8 * part).join(" ")})`,
  };
}

// Call a function whenever the theme changes: the system's, or that of the page.
function onTheme(redraw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  const observer = new MutationObserver(redraw);
  for (const element of [document.documentElement, document.body]) {
    observer.observe(element, { attributes: true, attributeFilter: ["data-theme", "class", "style"] });
  }
}

// Round numbers for the ticks of an axis as [number, text], as many as fit: each takes `room(text)` pixels of a length.
function ticksOf(low, high, length, room) {
  for (let most = 9; most > 2; most -= 1) {
    const ticks = roundNumbers(low, high, most);
    if (ticks.reduce((sum, [, text]) => sum + room(text), 0) < length) return ticks;
  }
  return roundNumbers(low, high, 2);
}

function roundNumbers(low, high, most) {
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * (1 - 1e-9));
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const plain = step >= 1e-6 && Math.max(Math.abs(low), Math.abs(high)) < 1e12;
  const ticks = [];
  for (let number = Math.ceil(low / step); number * step <= high + step * 1e-9; number += 1) {
    const tick = number * step;
    ticks.push([tick, plain ? decimals(tick, places).replace(/^−(0(\.0*)?)$/, "$1") : digits(tick, 4)]);
  }
  return ticks;
}

// A canvas with axes. A view is {x: [low, high], y: [low, high]}; `draw(picture)` is called whenever it must be drawn.
class Picture {
  constructor(root, canvas, ratio, draw) {
    Object.assign(this, { root, canvas, ratio, redraw: () => this.draw(draw) });
    this.pen = canvas.getContext("2d");
    canvas.style.aspectRatio = String(ratio);
    new ResizeObserver(this.redraw).observe(canvas);
    onTheme(this.redraw);
  }

  draw(draw) {
    const { canvas, pen, ratio } = this;
    if (!canvas.clientWidth) return; // it is hidden
    this.width = canvas.clientWidth;
    this.height = Math.round(this.width / ratio);
    const scale = window.devicePixelRatio || 1;
    canvas.width = this.width * scale;
    canvas.height = this.height * scale;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.font = "12px system-ui, sans-serif";
    this.theme = themeOf(this.root);
    draw(this);
  }

  // Axes with ticks around the view; what is drawn next is cut off at their edges until `end` is called.
  begin(view, { xLabel = "", yLabel = "", xTicks = true, yTicks = true } = {}) {
    const { pen, theme } = this;
    this.view = view;
    const [top, bottom, right] = [8, this.height - (xTicks ? 38 : 12), this.width - 8];
    const upright = yTicks ? ticksOf(...view.y, bottom - top, () => 38) : [];
    const left = yTicks ? 28 + Math.max(0, ...upright.map(([, text]) => pen.measureText(text).width)) : 12;
    this.edge = { left, right, top, bottom };
    pen.fillStyle = theme.paper;
    pen.fillRect(0, 0, this.width, this.height);
    pen.fillStyle = theme.muted;
    pen.strokeStyle = theme.line;
    pen.lineWidth = 1;
    pen.strokeRect(left, top, right - left, bottom - top);
    if (xTicks) {
      pen.textAlign = "center";
      pen.textBaseline = "top";
      for (const [tick, text] of ticksOf(...view.x, right - left, (label) => pen.measureText(label).width + 26)) {
        const half = pen.measureText(text).width / 2;
        pen.fillRect(this.x(tick), bottom, 1, 4);
        pen.fillText(text, Math.min(this.x(tick), this.width - half), bottom + 6);
      }
      pen.fillText(xLabel, (left + right) / 2, bottom + 21);
    }
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const [tick, text] of upright) {
      pen.fillRect(left - 4, this.y(tick), 4, 1);
      pen.fillText(text, left - 6, this.y(tick));
    }
    if (yTicks) {
      pen.save();
      pen.translate(8, (top + bottom) / 2);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "center";
      pen.fillText(yLabel, 0, 0);
      pen.restore();
    }
    pen.save();
    pen.beginPath();
    pen.rect(left, top, right - left, bottom - top);
    pen.clip();
  }

  end() {
    this.pen.restore();
  }

  // Pixels of a value, and the value under a pixel.
  x(value) {
    const [low, high] = this.view.x;
    return this.edge.left + ((value - low) / (high - low)) * (this.edge.right - this.edge.left);
  }

  y(value) {
    const [low, high] = this.view.y;
    return this.edge.bottom - ((value - low) / (high - low)) * (this.edge.bottom - this.edge.top);
  }

  valueAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const { left, right, top, bottom } = this.edge;
    const part = [(x - left) / (right - left), (bottom - y) / (bottom - top)];
    return [this.view.x, this.view.y].map(([low, high], axis) => low + part[axis] * (high - low));
  }

  dot(x, y, radius, colour, alpha = 1) {
    const { pen } = this;
    pen.globalAlpha = alpha;
    pen.fillStyle = colour;
    pen.beginPath();
    pen.arc(this.x(x), this.y(y), radius, 0, 2 * Math.PI);
    pen.fill();
    pen.globalAlpha = 1;
  }

  ring(x, y, radius, colour) {
    const { pen } = this;
    for (const [width, shade] of [[5, this.theme.paper], [2.5, colour]]) {
      pen.lineWidth = width;
      pen.strokeStyle = shade;
      pen.beginPath();
      pen.arc(this.x(x), this.y(y), radius, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  // A line through points [[x, y], …].
  path(points, colour, width = 2) {
    const { pen } = this;
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(this.x(x), this.y(y));
    pen.stroke();
  }
}

// Move a value from one number to another in so many seconds; `stop` ends it before.
function glide(from, to, seconds, show, done) {
  let running = true;
  let start = null;
  const step = (now) => {
    if (!running) return;
    start ??= now;
    const part = Math.min((now - start) / (1000 * seconds), 1);
    show(from + (to - from) * part);
    if (part < 1) requestAnimationFrame(step);
    else done();
  };
  requestAnimationFrame(step);
  return { stop: () => { running = false; } };
}

// A slider with a button that plays it. `show(value)` draws; the button's text says what it does.
class Player {
  constructor(slider, button, { last, seconds, show }) {
    Object.assign(this, { slider, button, last, seconds, show, moving: null, label: button.textContent });
    slider.max = String(last);
    slider.addEventListener("input", () => { this.stop(); show(this.value); });
    button.addEventListener("click", () => (this.moving ? this.stop() : this.play()));
  }

  get value() {
    return Number(this.slider.value);
  }

  set(value) {
    this.slider.value = String(value);
    this.show(value);
  }

  // Play on from where the slider is; from the end, once more from the other one.
  play(backwards = this.backwards) {
    const [start, end] = backwards ? [this.last, 0] : [0, this.last];
    const from = this.value === end ? start : this.value;
    const part = Math.abs(end - from) / this.last;
    this.button.textContent = "Pause";
    this.moving = glide(from, end, this.seconds * part, (value) => this.set(value), () => this.stop());
  }

  stop() {
    this.moving?.stop();
    this.moving = null;
    this.button.textContent = this.label;
  }
}
