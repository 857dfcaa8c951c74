"use strict";
(function () {
  /* A search among the small pictures of columns. */
  const search = document.getElementById("find-column");
  if (search) {
    const cards = Array.from(document.querySelectorAll("[data-column]"));
    const told = document.getElementById("columns-found");
    search.form.hidden = false;
    search.form.addEventListener("submit", (event) => event.preventDefault());
    search.addEventListener("input", () => {
      const wanted = search.value.trim().toLowerCase();
      let found = 0;
      for (const card of cards) {
        card.hidden = !card.dataset.column.toLowerCase().includes(wanted);
        found += card.hidden ? 0 : 1;
      }
      told.textContent = found + " of " + cards.length + " columns";
    });
  }

  /* Two columns, chosen by the reader, of data and of samples. */
  const held = document.getElementById("rows-held");
  if (!held) return;
  const rows = JSON.parse(held.textContent);
  const form = document.getElementById("pair-form");
  const chosen = [document.getElementById("pair-x"), document.getElementById("pair-y")];
  chosen.forEach((select, side) => {
    rows.columns.forEach((column, index) => {
      const option = document.createElement("option");
      option.value = index;
      option.textContent = column.name;
      option.selected = index === rows.first[side];
      select.append(option);
    });
    select.addEventListener("change", draw);
  });
  form.hidden = false;
  document.getElementById("pair").hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());

  /* How far along its axis a value lies, from 0 to 1, or null. Levels have a place each, and points spread around it. */
  function scaleOf(column, values) {
    if (column.levels) {
      const count = column.levels.length;
      return (value, row, salt) => value === null ? null : (value + 0.5 + 0.6 * (noise(row, salt) - 0.5)) / count;
    }
    const present = values.filter((value) => value !== null).sort((a, b) => a - b);
    const low = present[Math.floor(0.005 * (present.length - 1))];
    const high = present[Math.ceil(0.995 * (present.length - 1))];
    const width = high > low ? high - low : 1;
    return (value) => value === null ? null : 0.04 + 0.92 * (value - low) / width;
  }

  function noise(row, salt) {
    const wave = Math.sin(12.9898 * (row + 1) + 78.233 * salt) * 43758.5453;
    return wave - Math.floor(wave);
  }

  function written(column, part, row) {
    const value = column[part][row];
    if (value === null) return "missing";
    if (column.texts) return column.texts[part][row];
    return column.levels ? column.levels[value] : String(value);
  }

  /* Marks along an axis as [part of it, text]: of levels as many as there is room for, of numbers both ends. */
  function marksOf(column, ends, most) {
    if (!column.levels) return ends.map((text, index) => [[0.04, 0.96][index], text]);
    const step = Math.ceil(column.levels.length / most);
    return column.marks.flatMap((level, index) => index % step ? [] : [[(index + 0.5) / column.marks.length, level]]);
  }

  const short = (text, most) => text.length > most ? text.slice(0, most - 1).trimEnd() + "…" : text;

  /* The frame with its marks; their texts are set later, as they come from data. */
  function axes(across, up, texts) {
    const parts = ['<rect class="frame" width="300" height="300"/>'];
    const marks = marksOf(across, endsOf(across), 6);
    for (const [part, text] of marks) {
      const anchor = across.levels ? "middle" : part < 0.5 ? "start" : "end";
      parts.push('<text x="' + 300 * part + '" y="318" text-anchor="' + anchor + '"></text>');
      texts.push(short(text, across.levels ? Math.floor(42 / marks.length) : 20));
    }
    for (const [part, text] of marksOf(up, endsOf(up), 12)) {
      parts.push('<text x="-6" y="' + (304 - 300 * part) + '" text-anchor="end"></text>');
      texts.push(short(text, 11));
    }
    return parts.join("");
  }

  function draw() {
    const [x, y] = chosen.map((select) => Number(select.value));
    const [across, up] = [x, y].map((index) => rows.columns[index]);
    const scales = [scaleOf(across, across.data), scaleOf(up, up.data)];
    for (const part of ["data", "samples"]) {
      const box = document.getElementById("pair-" + part);
      const points = [];
      const tips = [];
      const texts = [];
      across[part].forEach((value, row) => {
        const place = [scales[0](value, row, 1), scales[1](up[part][row], row, 2)];
        if (place.some((each) => each === null || each < 0 || each > 1)) return;
        points.push('<circle class="' + part + '" r="2.6" fill-opacity="0.6" cx="' + (300 * place[0]).toFixed(1) +
          '" cy="' + (300 - 300 * place[1]).toFixed(1) + '"><title></title></circle>');
        tips.push(across.name + " " + written(across, part, row) + ", " + up.name + " " + written(up, part, row));
      });
      box.innerHTML = '<svg viewBox="-80 -1 382 326" role="img">' + axes(across, up, texts) + points.join("") + "</svg>";
      box.querySelectorAll("text").forEach((text, index) => { text.textContent = texts[index]; });
      box.firstChild.setAttribute("aria-label", part + ": " + points.length + " rows, " + across.name + " across, " + up.name + " up");
      box.querySelectorAll("title").forEach((title, index) => { title.textContent = tips[index]; });
    }
    document.getElementById("pair-said").textContent =
      across.name + " runs to the right (" + ends(across) + "), " + up.name + " upwards (" + ends(up) + ").";
  }

  function ends(column) {
    if (column.levels) return column.levels.slice(0, 12).join(", ") + (column.levels.length > 12 ? ", …" : "");
    return endsOf(column).join(" … ");
  }

  /* Where nearly all numbers of the data begin and end. */
  function endsOf(column) {
    if (column.levels) return [];
    const present = [...column.data.keys()].filter((row) => column.data[row] !== null)
      .sort((a, b) => column.data[a] - column.data[b]);
    const [low, high] = [Math.floor(0.005 * (present.length - 1)), Math.ceil(0.995 * (present.length - 1))];
    return present.length ? [low, high].map((place) => written(column, "data", present[place])) : [];
  }

  draw();
})();
