// ---- Scores: arrays of the file, looked up by the names of their axes -------------------------

const axes = meta.axes,
  R = axes.revision.length,
  n = meta.vocabulary.length;
const PARTS = {
  before: "before the layer",
  after_attention: "after attention",
  after_layer: "after the layer",
};
const HEAD = "head "; // a part of the model that is a head of attention
const arrays = new Map();

async function load() {
  await Promise.all(
    Object.keys(meta.dims).map((name) =>
      block(name, (buffer) =>
        arrays.set(name, name.endsWith("token") ? new Int32Array(buffer) : new Float32Array(buffer)),
      ),
    ),
  );
}

// The last axis of a value, of which only `dims` without a name in `at` remain: null or rank.
function row(name, at) {
  const dims = meta.dims[name],
    last = ["null", "rank"].includes(dims.at(-1));
  let index = 0;
  for (const dim of last ? dims.slice(0, -1) : dims) index = index * axes[dim].length + at[dim];
  const width = !last
    ? 1
    : arrays.get(name).length / dims.slice(0, -1).reduce((size, dim) => size * axes[dim].length, 1);
  return [...arrays.get(name).subarray(index * width, (index + 1) * width)];
}

// A score with its controls at a place: the state, with some of it changed.
function scoreAt(changed = {}) {
  const at = { ...state, ...changed };
  const head = at.part.startsWith(HEAD),
    prefix = head ? "attention_" : "";
  if (head) at.head = axes.head.indexOf(at.part.slice(HEAD.length));
  else at.stream = axes.stream.indexOf(at.part);
  const [similarity] = row(`${prefix}similarity`, at);
  const controls = axes.null.map((name, i) => ({
    name,
    mean: row(`${prefix}null_mean`, at)[i],
    sd: row(`${prefix}null_sd`, at)[i],
    p: row(`${prefix}p`, at)[i],
  }));
  const shares = row(`${prefix}top_share`, at);
  return {
    similarity: Number.isFinite(similarity) ? similarity : null,
    controls,
    tokens: row(`${prefix}top_token`, at).map((id, i) => ({ id, share: shares[i] })),
  };
}

const parts = (theory) =>
  axes.head && axes.theory[theory] === "query_key"
    ? [...axes.stream, ...axes.head.map((head) => HEAD + head)]
    : axes.stream;
const partName = (part) =>
  PARTS[part] ?? (part === `${HEAD}mean` ? "attention, mean of heads" : `attention, ${part}`);
const deviations = ({ mean, sd }, similarity) => {
  const z = (similarity - mean) / sd;
  return Number.isFinite(z) ? `${z < 0 ? "−" : "+"}${Math.abs(z).toFixed(1)} sd` : "undefined";
};
const SHUFFLED = { all: "shuffled tokens", frequency: "tokens shuffled within frequency bins" };

// ---- The state, which the address holds -------------------------------------------------------

const START = {
  revision: R - 1,
  theory: Math.max(0, axes.theory.indexOf("value")),
  residual: 0,
  centering: axes.centering.length - 1,
  layer: axes.layer.length - 1,
  part: "after_layer",
};
const state = { ...START };
const NAMED = ["revision", "theory", "residual", "centering", "layer"];

const address = () =>
  "#" + new URLSearchParams([...NAMED.map((name) => [name, axes[name][state[name]]]), ["part", state.part]]);

function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, START);
  for (const name of NAMED) {
    const found = axes[name].findIndex((value) => String(value) === asked.get(name));
    if (found >= 0) state[name] = found;
  }
  if (parts(state.theory).includes(asked.get("part"))) state.part = asked.get("part");
}

function go(news, { push = true } = {}) {
  Object.assign(state, news);
  if (!parts(state.theory).includes(state.part)) state.part = START.part;
  if (push && address() !== location.hash) history.pushState(null, "", address());
  else history.replaceState(null, "", address());
  update();
}
window.addEventListener("popstate", () => {
  fromAddress();
  update();
});

// ---- What is drawn ----------------------------------------------------------------------------

function update() {
  const here = scoreAt(),
    symbolOf = symbol(meta.symbols[axes.theory[state.theory]]);
  const revision = axes.revision[state.revision];
  $("step").value = state.revision;
  $("step-text").textContent = R > 1 ? `${revision}, ${state.revision + 1} of ${R}` : revision;
  $("step").setAttribute("aria-valuetext", revision);
  for (const name of ["theory", "layer"]) $(name).value = state[name];
  $("part").replaceChildren(
    ...parts(state.theory).map((part) => make("option", { value: part }, partName(part))),
  );
  $("part").value = state.part;
  for (const name of ["centering", "residual"]) check(name, state[name]);
  $("score-title").replaceChildren(
    `Layer ${axes.layer[state.layer]}, ${partName(state.part)}, beside `,
    ...symbolOf,
    ` at ${revision}`,
  );
  drawBars(here);
  $("over").hidden = R < 2;
  if (R > 1) drawCurve(here);
  drawTable();
  drawTokens(here);
  document.body.dataset.shown = Number(document.body.dataset.shown ?? 0) + 1;
}

function drawBars({ similarity, controls }) {
  const bars = [
    { label: "model", value: similarity, kind: "model" },
    ...controls.map(({ name, mean, sd }) => ({
      label: SHUFFLED[name] ?? name,
      value: mean,
      sd,
      kind: "control",
    })),
  ];
  $("bars").replaceChildren(
    ...bars.flatMap(({ label, value, sd, kind }) => {
      const known = value !== null && Number.isFinite(value),
        percent = (x) => `${(100 * Math.min(1, Math.max(0, x))).toFixed(2)}%`;
      const bar = make("div", { class: `bar ${kind}`, "aria-hidden": "true" });
      if (known) bar.append(make("span", { style: `width: ${percent(value)}` }));
      if (known && sd !== undefined)
        bar.append(
          make("i", {
            style: `left: ${percent(value - 2 * sd)}; right: calc(100% - ${percent(value + 2 * sd)})`,
          }),
        );
      const text = !known
        ? "undefined"
        : sd === undefined
          ? value.toFixed(3)
          : `${value.toFixed(3)} ± ${sd.toFixed(3)}`;
      return [make("div", { class: "label" }, label), bar, make("div", { class: "value" }, text)];
    }),
  );
  const says =
    similarity === null
      ? "The score is undefined: the vectors or the rows are all equal after centring."
      : controls
          .map(
            (control) =>
              `${deviations(control, similarity)} from the mean of ${SHUFFLED[control.name] ?? control.name} (p = ${number(control.p)})`,
          )
          .join("; ") + ".";
  $("verdict").textContent = says;
  $("live").textContent =
    `${$("score-title").textContent}: ${similarity === null ? "undefined" : similarity.toFixed(3)}. ${says}`;
}

function drawCurve() {
  const all = axes.revision.map((_, revision) => scoreAt({ revision }));
  const control = (i) =>
    all.map(({ controls }) => (Number.isFinite(controls[i]?.mean) ? controls[i].mean : null));
  const kinds = ["mean", "cosine"];
  $("curve").replaceChildren(
    chart(
      [
        ...axes.null.slice(0, 2).map((_, i) => ({ kind: kinds[i], values: control(i) })),
        { kind: "overlap", values: all.map(({ similarity }) => similarity) },
      ],
      {
        first: axes.revision[0],
        last: axes.revision.at(-1),
        now: state.revision,
        label: `Score at each checkpoint: ${all.map(({ similarity }, r) => `${axes.revision[r]} ${similarity === null ? "undefined" : similarity.toFixed(2)}`).join(", ")}`,
      },
    ),
  );
}

function drawTable() {
  const columns = parts(state.theory).filter(
    (part) => !part.startsWith(HEAD) || part === `${HEAD}mean` || part === state.part,
  );
  const head = make(
    "tr",
    {},
    make("th", { scope: "col" }, "layer"),
    ...columns.map((part) => make("th", { scope: "col" }, partName(part))),
  );
  const body = axes.layer
    .map((name, layer) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, String(name)),
        ...columns.map((part) => {
          const { similarity, controls } = scoreAt({ layer, part });
          const now = layer === state.layer && part === state.part;
          const cell = make(
            "button",
            {
              type: "button",
              class: now ? "now" : "",
              "aria-pressed": String(now),
              style: `--share: ${similarity ?? 0}`,
            },
            make("b", {}, similarity === null ? "–" : similarity.toFixed(2)),
            make("small", {}, similarity === null ? "" : deviations(controls[0], similarity)),
          );
          cell.addEventListener("click", () => {
            go({ layer, part });
            document.querySelector("#table .now")?.focus({ preventScroll: true });
          });
          return make("td", {}, cell);
        }),
      ),
    )
    .reverse();
  $("table").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function drawTokens({ similarity, tokens }) {
  const known = similarity === null ? [] : tokens.filter(({ share }) => Number.isFinite(share) && share > 0);
  const sum = known.reduce((total, { share }) => total + share, 0);
  const percent = (share) => `${((100 * share) / similarity).toFixed(1)} %`;
  $("tokens-note").textContent = !known.length
    ? "No token adds to this score."
    : `These ${known.length} of ${several(n, "token")} add ${percent(sum)} of the score; if all added alike, they would add ${((100 * known.length) / n).toFixed(1)} %.`;
  $("tokens").replaceChildren(
    ...known.map(({ id, share }) =>
      make(
        "li",
        { style: `--size: ${share / known[0].share}`, "data-id": id, "data-share": share },
        make("span", { class: "word" }, visible(meta.vocabulary[id])),
        make("span", { class: "times" }, `${meta.counts[id].toLocaleString("en")}×`),
        make("span", { class: "number" }, percent(share)),
      ),
    ),
  );
}

// ---- Controls and start -----------------------------------------------------------------------

function menu(name, options, chosen) {
  $(name).append(...options.map(([value, label]) => make("option", { value }, label)));
  $(name).addEventListener("change", () => chosen($(name).value));
}
const words = (text) => text.replaceAll("_", " ");
menu(
  "theory",
  axes.theory.map((name, i) => [i, words(name)]),
  (value) => go({ theory: Number(value) }),
);
menu(
  "layer",
  axes.layer.map((name, i) => [i, String(name)]),
  (value) => go({ layer: Number(value) }),
);
menu("part", [], (value) => go({ part: value }));
for (const name of ["centering", "residual"])
  choice(
    name,
    axes[name].map((value, i) => [String(i), value]),
    (value) => go({ [name]: Number(value) }),
  );
$("step").max = R - 1;
$("step").addEventListener("input", () => go({ revision: Number($("step").value) }, { push: false }));
$("step-field").hidden = R < 2;
$("controls").addEventListener("submit", (event) => event.preventDefault());

const from = meta.provenance;
$("summary").textContent = [
  from.model,
  from.corpus_name,
  several(n, "token"),
  several(axes.layer.length, "layer"),
  several(R, "checkpoint"),
]
  .filter(Boolean)
  .join(" · ");
$("shared").textContent = meta.shared.length
  ? `Checkpoints that share weights, between which a curve compares a model with itself: ${meta.shared.join("; ")}.`
  : "";
provenance();
fromAddress();
history.replaceState(null, "", address());
load().then(update);
