// Words, colours, and the plot of weight by distance. Python joins numbers.js, this file and
// explorer.js to one module.

export function percent(share) {
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

/** The colour of a segment, counted back from the one that is read. */
function segmentColour(model, age) {
  return bothThemes(model.colours.map(({ segments }) => segments[age % segments.length]));
}

/** Background and text colour, on a light and on a dark page, of a key `age` segments back. */
function segmentLook(model, age, depth) {
  const pairs = model.colours.map(({ paper, ink, segments }) =>
    cellColours(paper, ink, segments[age % segments.length], depth),
  );
  return [0, 1].map((part) => bothThemes(pairs.map((pair) => pair[part])));
}

/** The same in grey, for what belongs to no one segment. */
function greyLook(model, depth) {
  const pairs = model.colours.map(({ hidden, ink }) => cellColours(hidden, ink, ink, depth));
  return [0, 1].map((part) => bothThemes(pairs.map((pair) => pair[part])));
}

function paint(element, look) {
  [element.style.background, element.style.color] = look;
}

// --- weight by distance: both axes logarithmic, distance 0 at the left ---------------------------

const WIDE = 400;
const HIGH = 236;
const LEFT = 66;
const RIGHT = 10;
const TOP = 34;
const BOTTOM = 34;
const FLOOR = 1e-4;

function distancePlot(model, state, weights, mean, found) {
  const { query } = state;
  const length = model.tgt_len;
  const mine = Math.floor(query / length);
  const span = Math.log2(model.n + 1);
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
  for (const distance of [0, 1, 3, 10, 30, 100, 300, 1000].filter((d) => d < model.n)) {
    add("line", {
      class: "txl-gridline",
      x1: x(distance),
      x2: x(distance),
      y1: TOP,
      y2: HIGH - BOTTOM,
    });
    add("text", { x: x(distance), y: HIGH - BOTTOM + 15, "text-anchor": "middle" }, distance);
  }
  const first = firstKey(model, query, state.memory);
  for (let s = Math.floor(first / length); s <= mine; s++) {
    // one path per segment, of dots
    let dots = "";
    for (
      let key = Math.max(first, s * length);
      key <= Math.min(query, (s + 1) * length - 1);
      key++
    ) {
      dots += `M${x(query - key).toFixed(1)},${y(weights[key]).toFixed(1)}h0`;
    }
    add("path", { class: "txl-dots", d: dots, style: `stroke: ${segmentColour(model, mine - s)}` });
  }
  const path = [];
  for (let low = 0; low < mean.length;) {
    const high = Math.min(mean.length, Math.max(low + 1, Math.round(low * 2 ** 0.25)));
    const seen = [...mean.subarray(low, high)].filter((w) => w === w);
    if (seen.length)
      path.push(
        `${x((low + high - 1) / 2).toFixed(1)},${y(seen.reduce((s, w) => s + w, 0) / seen.length).toFixed(1)}`,
      );
    low = high;
  }
  add("polyline", { class: "txl-mean", points: path.join(" ") });
  const inside = (query % length) + 0.5;
  add("line", {
    class: "txl-edgeline",
    x1: x(inside),
    x2: x(inside),
    y1: TOP - 4,
    y2: HIGH - BOTTOM,
  });
  const right = x(inside) > WIDE - 112;
  add(
    "text",
    {
      class: "txl-bold",
      x: x(inside) + (right ? -3 : 3),
      y: TOP - 8,
      "text-anchor": right ? "end" : "start",
    },
    "memory's edge",
  );
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
    `<p class="txl-small">Dots: this ${model.unit}, coloured by segment. Line: mean of all in its segment.</p>`
  );
}
