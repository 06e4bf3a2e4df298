// Draws what scene.py describes, as SVG: shapes of one look are one path, so that a thousand lines
// cost a few milliseconds. The caption is the picture's name for a screen reader. Python joins this
// file and a widget's own to one module.

const NS = "http://www.w3.org/2000/svg";
const ADVANCE = 0.602; // width of a letter where all have one, of its size
let made = 0; // patterns need names of their own in the page

function node(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const colour = ([light, dark]) => `light-dark(${light}, ${dark})`;

const OUTLINES = {
  lines: (at) => {
    let path = `M${at[0]} ${at[1]}`;
    for (let i = 2; i < at.length; i += 2) path += `L${at[i]} ${at[i + 1]}`;
    return path;
  },
  boxes: ([x, y, w, h]) => `M${x} ${y}h${w}v${h}h${-w}z`,
  dots: ([x, y, r]) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
};

function painted({ kind, at, fill, stroke, width = 1, alpha = 1, dash }, hatch) {
  const path = node("path", { d: at.map(OUTLINES[kind]).join("") });
  path.style.fill = hatch ?? (fill ? colour(fill) : "none");
  path.style.stroke = stroke && !hatch ? colour(stroke) : "none";
  Object.assign(path.style, { strokeWidth: width, opacity: alpha });
  if (dash) path.style.strokeDasharray = dash.join(" ");
  return path;
}

function written({ x, y, words, size, anchor, bold, fill, halo, turn, mono }, { paper }) {
  const places = { x, y, "text-anchor": anchor, "dominant-baseline": "central" };
  if (turn) places.transform = `rotate(${-turn} ${x} ${y})`;
  const text = node("text", places, words);
  Object.assign(text.style, { fill: colour(fill), fontSize: `${size}px` });
  if (mono) {  // of one width, whatever font there is
    text.style.fontFamily = '"DejaVu Sans Mono", ui-monospace, Menlo, Consolas, monospace';
    text.style.whiteSpace = "pre";
    text.setAttribute("textLength", words.length * ADVANCE * size);
    text.setAttribute("lengthAdjust", "spacingAndGlyphs");
  }
  if (bold) text.style.fontWeight = "bold";
  if (halo) {
    const ground = { stroke: colour(paper), strokeWidth: 6, strokeLinejoin: "round" };
    Object.assign(text.style, { ...ground, paintOrder: "stroke" });
  }
  return text;
}

function drawn({ width, height, caption, shapes, looks }) {
  const box = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": caption };
  const svg = node("svg", { ...box, width });
  svg.style.background = colour(looks.paper);
  const name = `txl-hatch-${made++}`;
  const pattern = { id: name, width: 6, height: 6, patternUnits: "userSpaceOnUse" };
  const hatch = node("pattern", { ...pattern, patternTransform: "rotate(45)" });
  hatch.append(node("path", { d: "M0 0v6" }));
  Object.assign(hatch.firstChild.style, { stroke: colour(looks.hatch), strokeWidth: 1.4 });
  svg.append(hatch);
  for (const shape of shapes) {
    svg.append(shape.kind === "text" ? written(shape, looks) : painted(shape));
    if (shape.hatch) svg.append(painted(shape, `url(#${name})`));
  }
  return svg;
}
