// Memory, live: a Transformer-XL runs here. One types, watches its memory fill, points at a character
// to see what it attends to, lets it write, takes its memory away. anywidget calls `render`, a page
// of its own calls `mount`; nothing is loaded from anywhere.

/** Draw the component into `el`; returns a function that ends it. `data`: what Python packed;
 *  `weights`: a safetensors file; `gradientOf`: asks Python, where one listens. */
export async function mount(el, data, weights, { gradientOf = null, saved = null, save = null } = {}) {
  const world = data; // what stays as it is; `state`: what does not
  const code = new Map(data.shown.map((_, token) => [data.symbols[token], token]));
  const { config } = data;
  const state = {
    tokens: [], bits: [], otherBits: [], starts: [], pending: [],
    start: 0, memoryStart: 0, compare: "none",
    setting: { at: 0, T: data.T, M: data.M, wiped: false }, changes: [],
    chosen: [], pinned: false,
    layer: data.start.layer, head: data.start.head, terms: [true, true, true, true],
    temperature: 0.8, speed: 16, busy: null, passage: 0, gradient: null, changed: Infinity, slides: false,
  };
  let look = null; // what the worker says of what is chosen
  let frame = 0;
  let speaking = 0;
  let asked = 0;

  // --- the parts -----------------------------------------------------------------------------------

  const engine = new Engine(hear);
  const text = new TextView(world, config.n_layer, {
    point: (t) => !state.pinned && !state.gradient && choose([t]),
    choose(t, more) {
      closeGradient();
      const again = state.pinned && state.chosen.length === 1 && state.chosen[0] === t;
      const list = more ? [...new Set([...state.chosen, t])] : [t];
      state.pinned = !again;
      say(again ? "" : "Kept: click it again, or press Escape, to let it go.");
      choose(list);
    },
    range(a, b) {
      state.pinned = true;
      const [from, to] = a < b ? [a, b] : [b, a];
      choose(Array.from({ length: to - from + 1 }, (_, i) => from + i));
    },
    key: moveByKey,
  });
  const next = new NextPanel(world, (token) => type([token]));
  const heads = new HeadsPanel(world, config.n_layer, config.n_head, ({ layer, head }) => {
    Object.assign(state, { layer, head });
    ask();
  });
  const worth = new WorthPanel((what) => act({ kind: "compareWith", what }), sweep);
  const plot = make("div", { class: "txl-plot" });
  const strongest = make("div", { class: "txl-strongest" });
  const lower = make("h3", {}, "Strongest keys");
  const sentence = make("p", { class: "txl-sentence" });
  const note = make("p", { class: "txl-note", role: "status", "aria-live": "polite" });
  /** A word above the text; without one, how to use it. */
  const say = (words = "") => note.replaceChildren(...(words ? [words] : [
    make("b", {}, `Point at a ${world.unit}:`), " arcs show what it attends to. Click keeps it, ",
    "dragging chooses several, arrow keys move. Type below and go on."]));
  const spoken = make("p", { class: "txl-spoken", role: "status", "aria-live": "polite" });
  const box = make("textarea", { class: "txl-box", rows: 1, spellcheck: "false", autocomplete: "off",
    autocapitalize: "off", "aria-label": "Type or paste; Backspace takes back", "data-lm-suppress-shortcuts": "",
    placeholder: "type or paste here; Backspace takes back" });
  const terms = [..."abcd"].map((name, i) => {
    const check = make("input", { type: "checkbox", checked: true });
    check.addEventListener("change", () => {
      state.terms[i] = check.checked;
      ask();
    });
    return make("label", { title: MEANING[name] }, check, make("b", {}, name), make("small", {}, NAMES[name]));
  });

  const passages = choice("passage", data.passages.map((p, i) => [i, p.title]), (i) => open(Number(i)));
  const play = button("▶ read", "Read on, as fast as the slider says", () => (state.busy ? stop() : read()));
  const write = button("✎ write", "Let the model go on by itself", () => (state.busy ? stop() : compose()));
  const wipe = button("wipe the memory", "Empty the memory; this segment is read again without it", () =>
    act({ kind: "change", wiped: true }));
  const learn = button("learn from this segment", "Where does the gradient go?", showGradient);
  const memory = slider("memory M", { min: 0, max: data.longest, step: data.step, value: state.setting.M },
    (M) => plural(M, world.unit), remember);
  const lengths = choice("segment T", data.lengths.map((T) => [T, `${T}`]), (T) => act({ kind: "change", T: Number(T) }));
  const heat = slider("temperature", { min: 0, max: 1.5, step: 0.1, value: state.temperature },
    (x) => x.toFixed(1), (x) => (state.temperature = x));
  const pace = slider("speed", { min: 0, max: 6, value: 3 }, (x) => (x > 5 ? "full" : `${2 ** (x + 1)} a second`),
    (x) => (state.speed = x > 5 ? 0 : 2 ** (x + 1)));
  const through = make("div", { class: "txl-through", role: "group", "aria-label": "gradient" },
    button("stopped at the memory", "As the model is trained", () => drawGradient(false)),
    button("let it through", "Full back-propagation through time", () => drawGradient(true)),
    button("✕ close", "Back to the text", closeGradient));
  through.hidden = true;

  el.classList.add("txl");
  el.replaceChildren(
    make("div", { class: "txl-controls" }, passages,
      make("span", { class: "txl-group" },
        button("↺", "Begin anew", () => open(state.passage)),
        button("◀", "One back", () => back(1)), play, button("▶❘", "One further", () => step()), pace.whole),
      make("span", { class: "txl-group" }, write, heat.whole)),
    make("div", { class: "txl-controls" },
      make("label", {}, "segment T ", lengths), memory.whole, wipe, learn, through,
      ...(save ? [make("span", { class: "txl-group txl-links-out" },
        button("link", "Keep this state in the page's address", link),
        button("save", "Save this page, as it is now", () => save(stateText())))] : [])),
    note, text.grid,
    make("div", { class: "txl-typing" }, box, sentence),
    make("div", { class: "txl-panels" }, next.whole,
      make("div", { class: "txl-column" }, heads.whole, make("fieldset", { class: "txl-terms" },
        make("legend", {}, "terms of the score"), ...terms)),
      make("section", { class: "txl-panel" }, make("h3", {}, `Weight by distance (${world.unit}s back)`), plot),
      make("div", { class: "txl-column" }, worth.whole,
        make("section", { class: "txl-panel" }, lower, strongest))),
    spoken,
  );
  el.style.setProperty("--layers", config.n_layer);

  // --- what the worker says ------------------------------------------------------------------------

  function hear(news) {
    const { from } = news;
    const ended = news.start > state.start && state.tokens.length > 0;
    state.changed = Math.min(state.changed, from); // drawn once a frame, however much is told
    state.slides ||= ended && state.speed > 0;
    state.swept = false;
    for (const name of ["tokens", "bits", "otherBits", "starts"]) state[name].splice(from, Infinity, ...news[name]);
    for (const name of ["start", "memoryStart", "setting", "changes", "compare"]) state[name] = news[name];
    if (state.taking) state.pending.splice(0, news.tokens.length);
    if (!state.pinned) state.chosen = state.tokens.length ? [state.tokens.length - 1] : [];
    state.chosen = state.chosen.filter((t) => t < state.tokens.length);
    closeGradient();
    const now = performance.now(); // while it reads fast, a look at a few places is enough
    if (state.busy && now - asked < 120) draw();
    else {
      asked = now;
      ask();
    }
  }

  /** Ask what is seen from what is chosen; a newer question makes an older answer void. */
  async function ask() {
    const { chosen: at, layer, head, terms } = state;
    if (!at.length || !engine.post) {
      look = null;
      return draw();
    }
    el.setAttribute("aria-busy", "true");
    const answer = await engine.ask({ kind: "look", at, layer, head, terms });
    if (answer.kind !== "look" || String(at) !== String(state.chosen)) return;
    look = answer;
    draw();
  }

  function choose(list) {
    state.swept = false;
    state.chosen = list;
    ask();
  }

  // --- drawing -------------------------------------------------------------------------------------

  function draw() {
    if (!frame) frame = requestAnimationFrame(drawNow);
  }

  const colour = (start) => segmentColour(world, segmentAges(state).get(start) ?? 0);

  function drawNow() {
    frame = 0;
    if (state.changed < Infinity) {
      text.forget(state.changed);
      text.layOut(state, { animate: state.slides });
      text.measure(state, state.changed);
      Object.assign(state, { changed: Infinity, slides: false });
    }
    const shown = look && look.at.every((t) => t < state.tokens.length) ? look : null;
    if (!state.gradient) text.paint(state, state.busy === "read" && !state.pinned ? null : shown);
    heads.show(shown?.shares, state.layer, state.head);
    worth.show(state, world, state.pinned && state.chosen.length > 1 ? state.chosen : null);
    worth.sweep.setAttribute("aria-pressed", Boolean(state.swept));
    memory.set(state.setting.M);
    lengths.value = state.setting.T;
    play.textContent = state.busy === "read" ? "■ stop" : "▶ read";
    play.disabled = state.busy === "write" || (!state.busy && !state.pending.length);
    write.textContent = state.busy === "write" ? "■ stop" : "✎ write";
    write.disabled = state.busy === "read";
    wipe.disabled = state.start === state.memoryStart;
    next.whole.classList.toggle("txl-faint", Boolean(shown && !shown.next));
    if (shown?.next) {
      const t = shown.at[0];
      const came = t + 1 < state.tokens.length ? state.tokens[t + 1] : state.pending[0];
      const names = state.compare === "before" ? ["now", "before the change"] : ["with memory", "without"];
      next.show(shown, tail(t), came, names);
    }
    if (!state.gradient) describe(shown);
    el.setAttribute("aria-busy", engine.waiting.size > 0);
  }

  const tail = (t) => state.tokens.slice(Math.max(0, t - 11), t + 1).map((x) => world.shown[x]).join(world.unit === "character" ? "" : " ");

  function describe(shown) {
    if (!shown) {
      sentence.textContent = "";
      plot.replaceChildren();
      strongest.replaceChildren();
      return;
    }
    const one = shown.at.length === 1;
    const where = `layer ${state.layer + 1}, ${state.head < 0 ? `mean of ${config.n_head} heads` : `head ${state.head + 1}`}`;
    const share = shown.weights.subarray(0, shown.start).reduce((sum, w) => sum + w, 0);
    const then = shown.at.every((t) => t >= state.start) ? "nothing is in memory" : "when it was read, the memory was empty";
    let words = shown.start === shown.first ? then : `${percent(share)} of the weight crosses the memory’s edge`;
    if (one) {
      const found = spansOf(shown);
      words += `; 90 % lies within ${plural(found.span, world.unit)}`;
      plot.innerHTML = distancePlot(world, shown, found, state.starts, colour);
      if (state.swept) return;
      lower.textContent = "Strongest keys";
      strongest.replaceChildren(strongestTable(world, state, shown, colour, state.terms));
    } else {
      plot.replaceChildren(make("p", { class: "txl-small" }, `The mean of ${shown.at.length} ${world.unit}s is shown in the text.`));
      strongest.replaceChildren();
      lower.textContent = "";
    }
    const name = one ? world.spoken[state.tokens[shown.at[0]]] : plural(shown.at.length, world.unit);
    const off = state.terms.every(Boolean) ? "" : ` Without ${[..."abcd"].filter((_, i) => !state.terms[i]).join(", ")} for this ${world.unit}, in all layers.`;
    sentence.replaceChildren(make("b", {}, `${name} (${where})`), `: ${words}.${off}`);
    clearTimeout(speaking);
    speaking = setTimeout(() => (spoken.textContent = sentence.textContent), 400);
  }

  // --- deeds ---------------------------------------------------------------------------------------

  async function act(message) {
    state.taking = false;
    el.setAttribute("aria-busy", "true");
    try {
      await engine.ask(message);
    } catch (error) {
      say(error.message);
    }
    draw();
  }

  let wanted = null; // the memory's length, while another one is being tried

  /** Another length of memory: what is in it shows at once, what it is worth once that was read. */
  async function remember(M) {
    state.memoryStart = Math.max(state.setting.wiped ? state.start : 0, state.start - M);
    Object.assign(state, { changed: state.tokens.length, setting: { ...state.setting, M } });
    draw();
    const trying = wanted !== null;
    wanted = M;
    while (!trying && wanted !== null) {
      const now = wanted;
      await act({ kind: "change", M: now });
      if (wanted === now) wanted = null;
    }
  }

  async function long(busy, message) {
    Object.assign(state, { busy, taking: message.taking });
    draw();
    const [begun, n] = [performance.now(), state.tokens.length];
    await engine.ask(message);
    const [ms, more] = [performance.now() - begun, state.tokens.length - n];
    if (busy === "write" && more > 1) {
      say(`${plural(more, world.unit)} written, ${((1000 * more) / ms).toFixed(0)} a second.`);
    }
    Object.assign(state, { busy: null, taking: false });
    ask(); // the last news may have been passed over
  }

  const read = (delay = state.speed ? 1000 / state.speed : 0, count = Infinity) =>
    long("read", { kind: "read", tokens: state.pending.slice(0, count), delay, taking: true });
  const stop = () => engine.ask({ kind: "stop" });

  function compose() {
    state.pending = [];
    state.pinned = false;
    return long("write", { kind: "write", count: 2000, temperature: state.temperature,
      delay: state.speed ? 1000 / state.speed : 0 });
  }

  const step = () => (state.pending.length ? read(0, 1)
    : long("write", { kind: "write", count: 1, temperature: state.temperature, delay: 0 }));

  /** Take n tokens back; they wait behind the caret, to be read again. */
  async function back(n, keep = true) {
    const to = Math.max(0, state.tokens.length - n);
    if (keep) state.pending.unshift(...state.tokens.slice(to));
    await act({ kind: "takeBack", n: to });
  }

  /** Read what was typed; another continuation of the passage is dropped. */
  async function type(tokens) {
    state.pinned = false;
    const follows = tokens.every((t, i) => state.pending[i] === t);
    state.pending = follows ? state.pending.slice(tokens.length) : [];
    await long("read", { kind: "read", tokens, delay: 0, taking: false });
  }

  /** A passage as it is stored, before the worker has read it. */
  function showOpening(i) {
    const { tokens, read: n, ...stored } = data.passages[i];
    const [bits, otherBits] = [stored.bits, stored.otherBits].map((list) => list.map((x) => x ?? NaN));
    const opening = tokens.slice(0, n);
    Object.assign(state, { passage: i, pinned: false, chosen: [], pending: tokens.slice(n), taking: false });
    say();
    passages.value = i;
    const start = n - (n % data.T);
    const setting = { at: 0, T: data.T, M: data.M, wiped: false };
    hear({ from: 0, tokens: opening, bits, otherBits, starts: opening.map((_, t) => t - (t % data.T)), start,
      memoryStart: Math.max(0, start - data.M), setting, changes: [setting], compare: "none" });
    return { T: data.T, M: data.M, tokens: opening, otherBits };
  }

  const open = (i) => act({ kind: "restart", ...showOpening(i) });

  box.addEventListener("input", (event) => {
    if (event.isComposing) return;
    const { tokens, rest, unknown } = encoded(box.value, code, world.unit);
    box.value = rest;
    say(unknown.length ? `The model has no ${unknown.map((x) => `“${x}”`).join(", ")}: left out.` : "");
    if (tokens.length) type(tokens);
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && box.value === "") {
      back(1, false);
      event.preventDefault();
    } else if (event.key === "Escape") stop();
  });

  function moveByKey(event) {
    const at = state.chosen.at(-1) ?? state.tokens.length - 1;
    const wide = state.setting.T;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide, Home: -at,
      End: state.tokens.length - 1 - at }[event.key];
    if (by !== undefined) {
      const t = Math.min(state.tokens.length - 1, Math.max(0, at + by));
      state.pinned = true;
      choose(event.shiftKey ? [...new Set([...state.chosen, t])] : [t]);
      text.cells[t]?.focus();
    } else if (event.key === "Escape") {
      state.pinned = false;
      say();
      choose(state.tokens.length ? [state.tokens.length - 1] : []);
    } else return;
    event.preventDefault();
  }

  /** What would this segment cost with each length of memory? In place of the strongest keys. */
  async function sweep() {
    const { length } = state.tokens;
    if (!length) return say(`Read a ${world.unit} first.`);
    if (state.swept) {
      state.swept = false;
      return ask();
    }
    const points = [];
    state.swept = true;
    for (let M = 0; M <= Math.min(512, 2 * Math.max(8, state.start)); M = M ? 2 * M : 8) {
      const { costs } = await engine.ask({ kind: "costWith", M: Math.min(M, state.start) });
      if (!state.swept || state.tokens.length !== length) return;
      points.push({ M: Math.min(M, state.start), mean: costs.reduce((a, b) => a + (b || 0), 0) / costs.length, last: costs.at(-1) || 0 });
      lower.textContent = "Bits by the length of the memory";
      strongest.innerHTML = lengthPlot(world, points, state.setting.M);
    }
  }

  // --- the gradient --------------------------------------------------------------------------------

  async function showGradient() {
    const segments = segmentsRead(state);
    const stored = data.passages[state.passage].gradient;
    const [from, to] = segments.at(-1) ?? [0, 0];
    say();
    if (from !== state.start || to - from < 2) {
      say(`Read two ${world.unit}s of a segment or more: then there is something to learn.`);
    } else if (gradientOf) {
      say("Python computes the gradient ...");
      state.gradient = await gradientOf({ tokens: state.tokens, segments, M: state.setting.M });
      say();
    } else if (stored && sameSegments(stored, state, segments)) state.gradient = stored;
    else say("In a page the gradient is known where the passage opens (↺); in a notebook for any text.");
    if (!state.gradient) return;
    through.hidden = false;
    learn.hidden = wipe.hidden = true;
    drawGradient(false);
  }

  function drawGradient(open) {
    const found = (state.gradient.shown = state.gradient[open ? "through" : "stopped"]);
    [...through.children].slice(0, 2).forEach((b, i) => b.setAttribute("aria-pressed", (i === 1) === open));
    showPulse(text, state, state.gradient, found);
    say("Boxes: the size of d loss / d h, by layer and character: the stronger the colour, the larger; hatched is exactly 0.");
    sentence.textContent = spoken.textContent = found.sentence;
  }

  function closeGradient() {
    if (!state.gradient) return;
    state.gradient = null;
    through.hidden = true;
    learn.hidden = wipe.hidden = false;
    say();
    endPulse(text);
    draw();
  }

  // --- keeping a state -----------------------------------------------------------------------------

  function stateText() {
    const { tokens, pending, changes, layer, head, passage } = state;
    return JSON.stringify({ tokens, pending, changes: changes.map(({ at, T, M, wiped }) => ({ at, T, M, wiped })), layer, head, passage });
  }

  async function link() {
    const bytes = new TextEncoder().encode(stateText());
    location.hash = `s=${btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_")}`;
    say("This page’s address now holds the text and what you did to its memory.");
    await navigator.clipboard?.writeText(location.href).catch(() => {});
  }

  /** Do again what a kept state says; every number in it is checked by the worker. */
  async function restore(kept) {
    const { tokens, pending, changes, layer, head, passage } = JSON.parse(kept);
    const inside = (x, n) => Number.isInteger(x) && x >= 0 && x < n;
    const whole = [...tokens, ...pending];
    if (!whole.every((t) => inside(t, data.shown.length)) || whole.length > 20000) throw new Error("the kept state is not of this model");
    Object.assign(state, { layer: inside(layer, config.n_layer) ? layer : 0,
      head: inside(head + 1, config.n_head + 1) ? head : -1, passage: inside(passage, data.passages.length) ? passage : 0 });
    passages.value = state.passage;
    await act({ kind: "restart", T: data.T, M: data.M });
    let at = 0;
    for (const change of changes.slice(0, 200)) {
      await long("read", { kind: "read", tokens: tokens.slice(at, change.at), delay: 0 });
      at = Math.max(at, change.at);
      const { T, M, wiped } = change;
      if (at > 0 || T !== data.T || M !== data.M) await act({ kind: "change", T, M, wiped });
    }
    await long("read", { kind: "read", tokens: tokens.slice(at), delay: 0 });
    state.pending = pending;
    draw();
  }

  // --- the beginning -------------------------------------------------------------------------------

  const started = engine.start(config, weights, { T: data.T, M: data.M });
  let wide = el.clientWidth;
  const watcher = new ResizeObserver(() => {
    if (wide === el.clientWidth) return;
    wide = el.clientWidth;
    Object.assign(state, { changed: state.tokens.length });
    text.rows.clear();
    draw();
  });
  watcher.observe(el);
  say();
  if (!saved) showOpening(0); // before the weights are unpacked
  await started;
  try {
    if (saved) await restore(saved);
  } catch (error) {
    say(`The kept state cannot be opened (${error.message}); this is the first passage.`);
    saved = null;
  }
  if (!saved) await open(0);
  return () => {
    watcher.disconnect();
    engine.end();
    clearTimeout(speaking);
    cancelAnimationFrame(frame);
  };
}

/** What is typed as tokens; `rest`: what may still grow, for a model of words. */
function encoded(typed, code, unit) {
  const unknown = new Set();
  let [pieces, rest] = [[...typed.replaceAll("\r\n", "\n")], ""];
  if (unit !== "character") {
    pieces = typed.replaceAll("\n", " <eos> ").split(" ").filter(Boolean);
    if (!/\s$/.test(typed)) rest = pieces.pop() ?? "";
  }
  const tokens = pieces.map((piece) => {
    const token = code.get(piece) ?? code.get("<unk>");
    if (token === undefined) unknown.add(piece);
    return token;
  });
  return { tokens: tokens.filter((t) => t !== undefined), rest, unknown: [...unknown] };
}

/** anywidget's entry. */
function render({ model, el }) {
  const waiting = new Map();
  let count = 0;
  model.on("msg:custom", ({ id, gradient, error }) => {
    const { done, fail } = waiting.get(id) ?? {};
    waiting.delete(id);
    if (error) fail?.(new Error(error));
    else done?.(gradient);
  });
  const gradientOf = (question) =>
    new Promise((done, fail) => {
      waiting.set(++count, { done, fail });
      model.send({ id: count, ...question });
    });
  const { buffer, byteOffset, byteLength } = model.get("weights");
  const ending = mount(el, model.get("data"), buffer.slice(byteOffset, byteOffset + byteLength), { gradientOf });
  return () => ending.then((end) => end());
}

export default { render };
