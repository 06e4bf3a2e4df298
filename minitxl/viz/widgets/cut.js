// Cuts that one drags through a text. What Python computed stands in `blocks`: the bits, and the three
// likeliest characters, of each character when it is predicted from 1 ... 64 before it; and with the
// memory. cut.py draws the same picture where no script runs.

const share = (p) => {
  const value = 100 * p;
  return value > 0 && value < 0.1 ? "< 0.1 %" : `${value.toFixed(value > 0 && value < 9.95 ? 1 : 0)} %`;
};

/** Views of the bytes: { bits, tokens, shares } alone (n by longest) and remembered (n). */
function unpacked(blocks, n, longest, guesses) {
  const bytes = new Uint8Array(blocks.buffer.slice(blocks.byteOffset, blocks.byteOffset + blocks.byteLength));
  let at = 0;
  const take = (count) => bytes.slice(at, (at += count));
  const part = (count) => ({
    bits: Float64Array.from(new Uint16Array(take(2 * count).buffer), (x) => x / 1000),
    tokens: take(guesses * count),
    shares: Float64Array.from(take(guesses * count), (x) => x / 255),
  });
  return [part(n * longest), part(n)];
}

/** How many characters the j-th is predicted from, cut at phase, phase + T, ... */
const known = (j, T, phase) => ((((j - phase) % T) + T) % T) + 1;

/** The picture of a state, as shapes. */
function cutScene(world, { T, phase, memory, chosen }) {
  const { left, top, wide, line, cell, columns, rows, colours, shades, alone, remembered } = world;
  const n = columns * rows;
  const longest = Math.max(...world.lengths);
  const before = world.tokens.length - n;
  const shapes = [];
  const place = (j) => [left + (j % columns) * wide, top + Math.floor(j / columns) * line];
  const add = (kind, at, look) => at.length && shapes.push({ kind, at, ...look });
  const write = (x, y, words, look = {}) => shapes.push({ kind: "text", x, y, words, size: 14,
    anchor: "start", fill: colours.ink, ...look });
  const all = Array.from({ length: n }, (_, j) => j);
  const cost = all.map((j) => alone.bits[j * longest + known(j, T, phase) - 1]);
  const shown = memory ? remembered.bits : cost;
  const looks = memory ? shades.blue : shades.orange;
  const level = all.map((j) => Math.round(Math.min(shown[j] / world.full, 1) * (looks.length - 1)));
  looks.forEach(([fill], depth) =>
    add("boxes", all.filter((j) => level[j] === depth).map((j) => [...place(j), wide, cell]), { fill }));
  for (const j of all) {
    const [x, y] = place(j);
    write(x + wide / 2, y + cell / 2, world.symbols[world.tokens[before + j]],
      { anchor: "middle", mono: true, fill: looks[level[j]][1] });
  }
  const bars = all.filter((j) => known(j, T, phase) === 1).map(place);
  add("lines", bars.map(([x, y]) => [x, y - 3, x, y + cell + 3]),
    memory ? { stroke: colours.muted, width: 1.5, dash: [3, 3] } : { stroke: colours.ink, width: 3 });
  if (!memory) {
    const grips = bars.filter(([, y]) => y === top);
    add("lines", grips.map(([x, y]) => [x - 6, y - 14, x + 6, y - 14, x, y - 4, x - 6, y - 14]), { fill: colours.ink });
  }
  const mean = (list) => (list.reduce((a, b) => a + b, 0) / n).toFixed(2);
  const title = `Cut into segments of ${T}: ${mean(cost)} bits per character. With a memory: ${mean(remembered.bits)}`;
  const words = `Coloured by what each character costs ${memory ? "with the memory" : "without memory"}; ` +
    `full colour: ${world.full} bits`;
  write(16, 24, title, { size: 18, bold: true });
  write(16, 46, words, { fill: colours.muted });

  // one character: what it was guessed from, and the guesses of both readers
  const count = known(chosen, T, phase);
  const [cx, cy] = place(chosen);
  add("boxes", [[cx + 1, cy + 1, wide - 2, cell - 2]], { stroke: colours.ink, width: 2 });
  const used = all.filter((j) => j < chosen && j >= chosen - (memory ? world.memory + 1 : count)).map(place);
  add("lines", used.map(([x, y]) => [x, y + cell + 2, x + wide, y + cell + 2]),
    { stroke: memory ? colours.blue : colours.orange, width: 2.5 });
  const token = world.tokens[before + chosen];
  const tail = world.tokens.slice(before + chosen - 12, before + chosen).map((t) => world.symbols[t]).join("");
  const foot = top + rows * line + 30;
  const after = `After “${tail}” came ${world.spoken[token]}.`;
  write(16, foot, after, { bold: true });
  const characters = `${count} character${count > 1 ? "s" : ""}`;
  const parts = [
    [`Guessed from ${characters}${memory ? "" : " (underlined)"}`, colours.orange, alone, chosen * longest + count - 1],
    [`Guessed with a memory, from ${world.memory + 1} or more`, colours.blue, remembered, chosen],
  ];
  const said = parts.map(([name, colour, found, at], side) => {
    const x = world.bars[side];
    const costs = `${name}: ${found.bits[at].toFixed(1)} bits`;
    write(x - 44, foot + 28, costs, { bold: true, fill: colour });
    for (let k = 0; k < world.guesses; k++) {
      const [guess, p] = [found.tokens, found.shares].map((list) => list[at * world.guesses + k]);
      const y = foot + 56 + 25 * k;
      write(x - 22, y, world.symbols[guess], { size: 15, mono: true, anchor: "middle" });
      const long = Math.max(1, world.bar * p);
      add("boxes", [[x, y - 8, long, 16]], { fill: colour, alpha: guess === token ? 1 : 0.45 });
      write(x + long + 8, y, `${share(p)}${guess === token ? " ✓" : ""}`, { size: 13 });
    }
    return costs;
  });
  return { width: world.width, height: world.height, shapes, looks: colours,
    caption: `${title}. ${words}. ${after} ${said.join("; ")}.` };
}

function render({ model, el }) {
  const data = model.get("data");
  const n = data.columns * data.rows;
  const [alone, remembered] = unpacked(model.get("blocks"), n, Math.max(...data.lengths), data.guesses);
  const world = { ...data, alone, remembered };
  const state = { ...data.start };

  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const button = (words, act) => {
    const made = make("button", { type: "button" }, words);
    made.addEventListener("click", act);
    return made;
  };
  const set = (change) => {
    Object.assign(state, change);
    state.phase = ((state.phase % state.T) + state.T) % state.T;
    draw();
  };
  const sizes = data.lengths.map((T) => button(`${T}`, () => set({ T })));
  const memory = button("with a memory", () => set({ memory: !state.memory }));
  const slider = make("input", { type: "range", min: 0, "aria-label": "place of the cuts", "data-lm-suppress-shortcuts": "" });
  slider.addEventListener("input", () => set({ phase: Number(slider.value), memory: false }));
  const field = make("div", { class: "txl-field", tabindex: 0, role: "group", "data-lm-suppress-shortcuts": "",
    "aria-label": "The text. Arrow keys choose a character." });
  const spoken = make("p", { class: "txl-said", role: "status" });
  el.classList.add("txl-drawing", "txl-play");
  el.replaceChildren(
    make("div", { class: "txl-tools" },
      make("label", { class: "txl-choice" }, "move the cuts ", slider),
      make("span", { class: "txl-choice", role: "group", "aria-label": "segment T" }, "segment T ", ...sizes),
      memory),
    field, spoken);

  /** A place of the picture under the pointer: [x, y] in its pixels. */
  const under = (event) => {
    const box = field.firstChild.getBoundingClientRect();
    const scale = data.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const column = (x) => (x - data.left) / data.wide;
  const nearCut = (x) => {
    const off = (((column(x) - state.phase) % state.T) + state.T) % state.T;
    return Math.min(off, state.T - off) < 0.45;
  };
  const inText = (y) => y > data.top - 18 && y < data.top + data.rows * data.line;
  const characterAt = (x, y) => {
    const [i, row] = [Math.floor(column(x)), Math.floor((y - data.top) / data.line)];
    return i >= 0 && i < data.columns && row >= 0 && row < data.rows ? row * data.columns + i : null;
  };
  let dragged = null; // where the drag began: [column, phase]
  field.addEventListener("pointerdown", (event) => {
    const [x, y] = under(event);
    if (!inText(y) || !nearCut(x)) return;
    dragged = [column(x), state.phase];
    field.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  field.addEventListener("pointermove", (event) => {
    const [x, y] = under(event);
    if (dragged) return set({ phase: dragged[1] + Math.round(column(x) - dragged[0]), memory: false });
    field.style.cursor = inText(y) && nearCut(x) ? "ew-resize" : "default";
    const j = characterAt(x, y);
    if (j !== null && j !== state.chosen) set({ chosen: j });
  });
  for (const kind of ["pointerup", "pointercancel"]) field.addEventListener(kind, () => (dragged = null));
  field.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -data.columns, ArrowDown: data.columns }[event.key];
    if (by === undefined) return;
    set({ chosen: Math.min(n - 1, Math.max(0, state.chosen + by)) });
    event.preventDefault();
  });

  let frame = 0;
  let saying = 0;
  function draw() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      drawNow();
    });
  }
  function drawNow() {
    const scene = cutScene(world, state);
    field.replaceChildren(drawn(scene));
    sizes.forEach((b, i) => b.setAttribute("aria-pressed", data.lengths[i] === state.T));
    memory.setAttribute("aria-pressed", state.memory);
    slider.max = state.T - 1;
    slider.value = state.phase;
    clearTimeout(saying);
    saying = setTimeout(() => (spoken.textContent = scene.caption), 400);
  }
  drawNow();
  return () => {
    cancelAnimationFrame(frame);
    clearTimeout(saying);
  };
}

export default { render };
