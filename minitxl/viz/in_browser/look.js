// Words and colours, and the plot of weight by distance. Python joins this file, text.js, panels.js
// and live.js to one module.

function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  if (value > 99.9 && value < 100 - 1e-6) return "> 99.9 %";
  return `${value.toFixed(value > 0 && value < 9.95 ? 1 : 0)} %`;
}

function segmentName(age) {
  return age === 0 ? "this segment" : `${age} back`;
}

function plural(count, unit) {
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}

/** Depth of colour of a weight, 0 ... 1: square root, full from one half on. */
function strength(weight) {
  return Math.sqrt(Math.min(weight / 0.5, 1));
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function luminance(colour) {
  const linear = colour.map((c) =>
    c / 255 <= 0.04045 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

function contrast(a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

/** Fill and text: the theme's ink where it is legible, else what contrasts more. */
function cellColours(paper, ink, hue, depth) {
  if (depth === 0) return ["transparent", ink]; // the links behind show through
  const [low, high] = [rgb(paper), rgb(hue)];
  const fill = low.map((p, at) => Math.round(p + (high[at] - p) * depth));
  const texts = [ink, "#ffffff", "#000000"].map((text) => [contrast(fill, rgb(text)), text]);
  const best = texts[0][0] > 7 ? texts[0] : texts.sort((x, y) => y[0] - x[0])[0];
  return [`rgb(${fill})`, best[1]];
}

function bothThemes(pair) {
  return `light-dark(${pair[0]}, ${pair[1]})`;
}

/** One theme's colour of a segment `age` segments back; beyond the palette greys, each another. */
function segmentHex({ segments }, age) {
  if (age < segments.length) return segments[age];
  const grey = Math.round(70 + 130 * (1 - 0.8 ** (age - segments.length + 1)));
  return `#${grey.toString(16).padStart(2, "0").repeat(3)}`;
}

/** The colour of a segment, counted back from the one that is read. */
function segmentColour(world, age) {
  return bothThemes(world.colours.map((theme) => segmentHex(theme, age)));
}

/** Background and text colour, on a light and on a dark page, of a key `age` segments back. */
function segmentLook(world, age, depth) {
  return looks(world, (theme) => [theme.paper, theme.ink, segmentHex(theme, age), depth]);
}

/** The same for bits: in grey, as they belong to no segment. */
function bitsLook(world, depth) {
  return looks(world, ({ paper, ink }) => [paper, ink, ink, 0.62 * depth]);
}

/** The same in grey, for what belongs to no one segment. */
function greyLook(world, depth) {
  return looks(world, ({ hidden, ink }) => [hidden, ink, ink, depth]);
}

const known = new Map(); // colours are asked for again and again

function looks(world, of) {
  const key = world.colours.map((theme) => of(theme)).join();
  if (!known.has(key)) {
    const pairs = world.colours.map((theme) => cellColours(...of(theme)));
    known.set(key, [0, 1].map((part) => bothThemes(pairs.map((pair) => pair[part]))));
  }
  return known.get(key);
}

function paint(element, look) {
  [element.style.background, element.style.color] = look;
}

/** Share in memory, mean distance, and the distance within which 90 % of the weight lies. */
function spansOf({ at: [query], weights, start }) {
  let [reached, expected, memory, span] = [0, 0, 0, null];
  for (let key = query; key >= 0; key--) {
    reached += weights[key];
    if (span === null && reached >= 0.9) span = query - key;
    expected += (query - key) * weights[key];
    if (key < start) memory += weights[key];
  }
  return { memory, expected, span: span ?? query };
}

// --- weight by distance: both axes logarithmic, distance 0 at the left ---------------------------

const WIDE = 400;
const HIGH = 236;
const LEFT = 66;
const RIGHT = 10;
const TOP = 34;
const BOTTOM = 34;
const FLOOR = 1e-4;

/** `look`: what the worker says of one token; `found`: its spans; `colour`: of a key's segment. */
function distancePlot(world, { at: [query], weights, mean, first, start }, found, starts, colour) {
  const n = Math.max(query + 1, 64);
  const span = Math.log2(n + 1);
  const x = (distance) => LEFT + 6 + ((WIDE - LEFT - RIGHT - 12) * Math.log2(distance + 1)) / span;
  const y = (weight) =>
    TOP + ((HIGH - TOP - BOTTOM) * Math.log10(Math.max(weight, FLOOR))) / Math.log10(FLOOR);
  const out = [];
  const add = (tag, attributes, text = "") =>
    out.push(
      `<${tag} ${Object.entries(attributes)
        .map(([name, value]) => `${name}="${value}"`)
        .join(" ")}>${text}</${tag}>`,
    );
  for (const [weight, text] of [
    [1, "100 %"],
    [0.1, "10 %"],
    [0.01, "1 %"],
    [1e-3, "0.1 %"],
    [1e-4, "≤ 0.01 %"],
  ]) {
    add("line", {
      class: "txl-gridline",
      x1: LEFT,
      x2: WIDE - RIGHT,
      y1: y(weight),
      y2: y(weight),
    });
    add("text", { x: LEFT - 4, y: y(weight) + 4, "text-anchor": "end" }, text);
  }
  for (const distance of [0, 1, 3, 10, 30, 100, 300, 1000].filter((d) => d < n)) {
    add("line", {
      class: "txl-gridline",
      x1: x(distance),
      x2: x(distance),
      y1: TOP,
      y2: HIGH - BOTTOM,
    });
    add("text", { x: x(distance), y: HIGH - BOTTOM + 15, "text-anchor": "middle" }, distance);
  }
  const dots = new Map(); // one path for each segment
  for (let key = first; key <= query; key++) {
    const dot = `M${x(query - key).toFixed(1)},${y(weights[key]).toFixed(1)}h0`;
    dots.set(starts[key], (dots.get(starts[key]) ?? "") + dot);
  }
  for (const [segment, d] of dots) add("path", { class: "txl-dots", d, stroke: colour(segment) });
  const path = [];
  for (let low = 0; low < Math.min(mean.length, n);) {
    const high = Math.min(mean.length, Math.max(low + 1, Math.round(low * 2 ** 0.25)));
    const seen = [...mean.subarray(low, Math.min(high, n))].filter((w) => w === w);
    if (seen.length)
      path.push(
        `${x((low + high - 1) / 2).toFixed(1)},${y(seen.reduce((s, w) => s + w, 0) / seen.length).toFixed(1)}`,
      );
    low = high;
  }
  add("polyline", { class: "txl-mean", points: path.join(" ") });
  const inside = query - start + 0.5;
  if (start > first) { // when it was read, there was a memory
    const end = { x1: x(inside), x2: x(inside), y1: TOP - 4, y2: HIGH - BOTTOM };
    const right = x(inside) > WIDE - 112;
    const place = { x: x(inside) + (right ? -3 : 3), y: TOP - 8, "text-anchor": right ? "end" : "start" };
    add("line", { class: "txl-edgeline", ...end });
    add("text", { class: "txl-bold", ...place }, "memory's edge");
  }
  add("line", {
    class: "txl-spanline",
    x1: x(found.span),
    x2: x(found.span),
    y1: TOP - 4,
    y2: HIGH - BOTTOM,
  });
  const late = x(found.span) > WIDE - 105;
  add(
    "text",
    { x: x(found.span) + (late ? -3 : 3), y: TOP - 22, "text-anchor": late ? "end" : "start" },
    `90 % within ${found.span}`,
  );
  const says = `Weight by distance: 90 % within ${found.span}, mean distance ${found.expected.toFixed(1)}.`;
  return (
    `<svg viewBox="0 0 ${WIDE} ${HIGH}" role="img" aria-label="${says}">${out.join("")}</svg>` +
    `<p class="txl-small">Dots: this ${world.unit}, coloured by segment. Line: mean of all in its segment.</p>`
  );
}
