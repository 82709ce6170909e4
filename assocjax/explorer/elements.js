// ---- Elements, symbols and numbers -----------------------------------------------------------

const $ = (id) => document.getElementById(id);
const meta = JSON.parse($("meta").textContent);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const number = (x) =>
  x === 0
    ? "0"
    : Math.abs(x) >= 0.001 && Math.abs(x) < 1e4
      ? String(Number(x.toPrecision(2)))
      : x.toExponential(1);
const several = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

// W_O^T as a symbol: the letter after _ or the digits hang, the T after ^ stands.
const symbol = (text) =>
  text
    .split(/([_^](?:\d+|\w))/)
    .filter(Boolean)
    .map((part) =>
      "_^".includes(part[0]) ? make(part[0] === "_" ? "sub" : "sup", {}, part.slice(1)) : part,
    );

// Blanks and invisible characters, which some tokenizers have, are shown: most of them as in Python.
function escape(character) {
  const code = character.codePointAt(0);
  const [kind, digits] = code < 256 ? ["x", 2] : code < 65536 ? ["u", 4] : ["U", 8];
  return `\\${kind}${code.toString(16).padStart(digits, "0")}`;
}
const visible = (word) =>
  word
    .replace(/ /g, "␣")
    .replace(/\n/g, "⏎")
    .replace(/\t/g, "⇥")
    .replace(/\r/g, "␍")
    .replace(/[\p{C}\p{Z}]/gu, escape) || "∅";

// Radio buttons of the fieldset `name`; `options` are [value, label].
function choice(name, options, chosen) {
  const group = make("div", { class: "choice" });
  for (const [value, label] of options) {
    const input = make("input", { type: "radio", name, value });
    input.addEventListener("change", () => chosen(value));
    group.append(make("label", {}, input, ...symbol(label)));
  }
  $(name).append(group);
}
function check(name, value) {
  for (const input of document.getElementsByName(name)) input.checked = input.value === String(value);
}

// Curves over recorded steps, evenly spaced; from -1 if a value is negative, otherwise from 0.
function chart(curves, { first, last, now, label }) {
  const W = 380,
    top = 5,
    high = 60,
    n = curves[0].values.length;
  const least = Math.min(0, ...curves.flatMap(({ values }) => values.filter((v) => v !== null)));
  const low = least < 0 ? -1 : 0;
  const x = (s) => 18 + (W - 32) * (n > 1 ? s / (n - 1) : 0.5);
  const y = (v) => top + (high * (1 - v)) / (1 - low);
  const svg = draw("svg", {
    class: "curve",
    viewBox: `0 0 ${W} ${high + 21}`,
    role: "img",
    "aria-label": label,
  });
  for (const v of low < 0 ? [-1, 0, 1] : [0, 1])
    svg.append(
      draw("line", { class: v ? "axis" : "axis zero", x1: 18, x2: W - 14, y1: y(v), y2: y(v) }),
      draw("text", { x: 13, y: y(v) + 3.5, "text-anchor": "end" }, v < 0 ? "−1" : String(v)),
    );
  for (const { kind, values } of curves) {
    let path = "",
      pen = "M";
    values.forEach((v, s) => {
      if (v !== null) path += `${pen}${x(s).toFixed(1)} ${y(v).toFixed(1)}`;
      pen = v === null ? "M" : "L";
    });
    svg.append(draw("path", { class: kind, d: path || "M0 0" }));
    if (values.length === 1 && values[0] !== null)
      svg.append(draw("circle", { class: "dot", cx: x(0), cy: y(values[0]), r: 3 }));
  }
  svg.append(
    draw("line", { class: "now", x1: x(now), x2: x(now), y1: y(1) - 3, y2: y(low) + 3 }),
    draw("text", { x: x(0), y: high + 19 }, first),
    draw("text", { x: x(n - 1), y: high + 19, "text-anchor": "end" }, last),
  );
  const here = curves.at(-1).values[now];
  if (here !== null) svg.append(draw("circle", { class: "dot", cx: x(now), cy: y(here), r: 3.5 }));
  return svg;
}

// ---- Blocks of data, which are unpacked when they are needed ----------------------------------

const blocks = new Map(); // name -> a promise of its content

function block(name, read) {
  if (!blocks.has(name)) blocks.set(name, unpack(name).then(read));
  return blocks.get(name);
}

async function unpack(name) {
  const element = $(name),
    text = atob(element.textContent);
  element.remove();
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// Arrays one after the other, as the Python modules beside this file write them.
function reader(buffer) {
  let at = 0;
  return (type, length) => {
    const part = new type(buffer, at, length);
    at += part.byteLength;
    return part;
  };
}

// ---- What both pages say of their data --------------------------------------------------------

function provenance() {
  const told = (value) =>
    typeof value !== "object" || value === null
      ? String(value)
      : Object.entries(value)
          .map(([key, v]) => `${key}: ${JSON.stringify(v)}`)
          .join(", ");
  for (const [name, value] of Object.entries(meta.provenance))
    $("provenance").append(make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, told(value)));
}
