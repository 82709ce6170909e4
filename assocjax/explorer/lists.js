// ---- When associations form, and the lists of theory and weights ------------------------------

const bold = (token) => make("b", { class: "token" }, names[token]);

function sentence(text, token) {
  const [before, after] = text.split("{}");
  return [before, bold(token), after];
}

// A card for every matrix, or for each of its layers: { matrix, layer, weights, lists }.
async function views() {
  const layers = (matrix) =>
    !matrix.layered || matrix.weights === null
      ? [0]
      : state.layer === "all"
        ? [...meta.layers.keys()]
        : [state.layer];
  const found = await Promise.all(
    meta.matrices.map(async (matrix) => {
      const of = await lists(matrix, state.scoring, state.side);
      return layers(matrix).map((layer) => ({
        matrix,
        layer,
        lists: of,
        weights: matrix.weights?.replace("_l", `_${meta.layers[layer]}`) ?? null,
      }));
    }),
  );
  return found.flat();
}

const tokensShown = () => (state.compare === null ? [state.token] : [state.token, state.compare]);

function drawWhen(shown) {
  const rows = [];
  for (const token of tokensShown()) {
    if (state.compare !== null) rows.push(make("h3", { class: "of" }, bold(token)));
    for (const { matrix, layer, weights, lists } of shown) {
      if (weights === null) continue;
      const counts = lists.common(layer, token),
        listed = lists.theory(token).length;
      const first = counts.findIndex((count) => count !== null && 2 * count >= listed);
      const strip = make("div", {
        class: "strip",
        role: "group",
        "aria-label": `${weights} over steps, ${names[token]}`,
      });
      counts.forEach((count, s) => {
        const what =
          count !== null ? `${count} of ${listed} in common` : listed ? "no list yet" : "no list in theory";
        const cell = make("button", {
          type: "button",
          class: `cell${count === null ? " none" : ""}${s === state.step ? " now" : ""}`,
          style: `--share: ${(count ?? 0) / (listed || 1)}`,
          title: `step ${meta.steps[s]}: ${what}`,
          "aria-label": `step ${meta.steps[s]}: ${what}`,
          tabindex: "-1",
        });
        cell.addEventListener("click", () => go({ step: s }));
        strip.append(cell);
      });
      rows.push(
        make("div", { class: "name" }, ...symbol(weights), " ", make("small", {}, ...symbol(matrix.theory))),
        strip,
        make(
          "div",
          { class: "formed" },
          !listed ? "no list in theory" : first < 0 ? "never half" : `half by step ${meta.steps[first]}`,
        ),
      );
    }
  }
  const ticks = make("div", { class: "strip", "aria-hidden": "true" });
  const every = Math.ceil(S / 8);
  meta.steps.forEach((step, s) => {
    const kind = `tick${s === state.step ? " now" : ""}${s % every === 0 ? " label" : ""}`;
    ticks.append(make("div", { class: kind }, String(step)));
  });
  rows.push(make("div", { class: "name empty" }), ticks, make("div", { class: "formed empty" }, "step"));
  $("when").replaceChildren(...rows);
}

// ---- Cards ------------------------------------------------------------------------------------

// What the count of an associate says.
function counted(count, matrix, token) {
  const stands = matrix.stands[state.side];
  return stands === "third"
    ? `through ${several(count, "third token")}`
    : `${several(count, "time")} ${STANDS[stands].says} ${names[token]}`;
}

function entry({ id, score, count }, rank, { kind, both, largest, token, matrix }) {
  const truth = isPlanted(matrix, state.side, token, id);
  const said = [
    names[id],
    `score ${number(score)}`,
    counted(count, matrix, token),
    both ? "in both lists" : `only in ${kind}`,
  ];
  if (truth) said.push("planted");
  const button = make(
    "button",
    {
      type: "button",
      tabindex: rank ? "-1" : "0",
      "data-id": id,
      "data-score": score,
      title: said.join(", "),
      style: `--size: ${score / largest}`,
      "aria-label": said.join(", "),
      "aria-haspopup": "dialog",
    },
    make("span", { class: "mark", "aria-hidden": "true" }, both ? "●" : kind === "theory" ? "○" : "◇"),
    make("span", { class: "word" }, names[id]),
  );
  if (truth) button.append(make("span", { class: "planted" }, "✱"));
  const unit = matrix.stands[state.side] === "third" ? "via #" : "#×";
  button.append(
    make("span", { class: "times" }, unit.replace("#", count.toLocaleString("en"))),
    make("span", { class: "number" }, number(score)),
  );
  return make("li", { class: both ? "both" : kind }, button);
}

// Why a list ends before it is full.
function whyShort(found, token, kind, cosine) {
  if (found.length === K) return null;
  if (meta.vocabulary[token] === "<unk>") return "No list: this token stands for many different ones.";
  const least = "is above zero here and occurs in the text";
  if (found.length) return `Only ${found.length}: no other association of ${names[token]} ${least}.`;
  return kind === "weights" && cosine === null
    ? `No list: all entries of ${names[token]} are still equal, in the weights or in theory.`
    : `No association of ${names[token]} ${least}.`;
}

function column(title, found, other, { kind, token, matrix, cosine }) {
  const heading = make("h4", {}, ...symbol(title));
  const known = new Set(other?.map(({ id }) => id));
  const largest = found[0]?.score || 1;
  const list = make("ol", { "aria-label": `${title}, ${names[token]}`, "data-kind": kind });
  found.forEach((one, rank) =>
    list.append(entry(one, rank, { kind, both: known.has(one.id), largest, token, matrix })),
  );
  const why = whyShort(found, token, kind, cosine);
  const body = make("div", {});
  if (found.length) body.append(list);
  if (why) body.append(make("p", { class: "nothing" }, why));
  return [heading, body];
}

function drawCard({ matrix, layer, weights, lists }, token) {
  const expected = lists.theory(token);
  const card = make(
    "article",
    { class: "card", "data-matrix": matrix.name, "data-layer": layer, "data-token": token },
    make("h3", {}, ...sentence(matrix[state.side], token)),
  );
  const pair = make("div", { class: "pair" });
  const about = { token, matrix };
  if (weights === null) {
    const note = "It shows in the rows of V and, through Σ, in the columns of V W_O.";
    pair.append(
      ...place(column(`theory: ${matrix.theory}`, expected, null, { ...about, kind: "theory" }), 1),
      ...place([make("h4", {}, "weights"), make("p", { class: "nothing" }, ...symbol(note))], 3),
    );
    card.append(make("p", { class: "score" }, "no weight by itself learns this"), pair);
    return card;
  }
  const found = lists.weights(layer, state.step, token),
    cosine = lists.cosine(layer, state.step, token);
  const common = lists.common(layer, token);
  const here = common[state.step];
  card.append(
    make(
      "p",
      { class: "score" },
      ...(here === null
        ? [expected.length ? "not comparable at this step" : "no list in theory"]
        : [
            make("strong", {}, `${here} of ${expected.length}`),
            " in common",
            cosine === null ? "" : `, cosine ${cosine.toFixed(2)}`,
          ]),
    ),
  );
  pair.append(
    ...place(column(`theory: ${matrix.theory}`, expected, found, { ...about, kind: "theory" }), 1),
    ...place(column(weights, found, expected, { ...about, kind: "weights", cosine }), 3),
  );
  if (expected.length && found.length) pair.append(links(expected, found));
  card.append(pair, ...planting(matrix, token, expected, found), ...shared(lists, layer, token, found));
  const share = common.map((count) => (count === null ? null : count / expected.length));
  const cosines = meta.steps.map((_, s) => lists.cosine(layer, s, token));
  const end = cosines.at(-1) === null ? "" : `, cosine ${cosines.at(-1).toFixed(2)}`;
  card.append(
    chart(
      [
        {
          kind: "mean",
          values: meta.mean[state.scoring][state.side][matrix.name][matrix.layered ? layer : 0],
        },
        { kind: "cosine", values: cosines },
        { kind: "overlap", values: share },
      ],
      {
        first: `step ${meta.steps[0]}`,
        last: String(meta.steps[S - 1]),
        now: state.step,
        label: `Over training: ${common.at(-1) ?? 0} of ${expected.length} in common at the end${end}`,
      },
    ),
  );
  return card;
}

function place([heading, body], at) {
  heading.style.gridArea = `1 / ${at}`;
  body.style.gridArea = `2 / ${at}`;
  return [heading, body];
}

function links(expected, found) {
  const height = 24 * Math.max(expected.length, found.length);
  const svg = draw("svg", {
    viewBox: `0 0 32 ${height}`,
    height,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  expected.forEach((one, i) => {
    const j = found.findIndex(({ id }) => id === one.id);
    if (j >= 0) svg.append(draw("line", { x1: 1, y1: 24 * i + 11, x2: 31, y2: 24 * j + 11 }));
  });
  return svg;
}

function planting(matrix, token, expected, found) {
  const all = [...ids.values()].filter((id) => isPlanted(matrix, state.side, token, id));
  if (!all.length) return [];
  const held = (list) => list.filter(({ id }) => all.includes(id)).length;
  return [
    make(
      "p",
      { class: "planting" },
      make("span", { "aria-hidden": "true" }, "✱ "),
      `${all.length} planted in the text: theory lists ${held(expected)}, the weights ${held(found)}`,
    ),
  ];
}

// Beside another token: which associates both have in the weights.
function shared(lists, layer, token, found) {
  if (state.compare === null) return [];
  const other = token === state.token ? state.compare : state.token;
  const theirs = new Set(lists.weights(layer, state.step, other).map(({ id }) => id));
  const both = found.filter(({ id }) => theirs.has(id)).map(({ id }) => names[id]);
  return [
    make(
      "p",
      { class: "planting" },
      "In the weights’ list of ",
      bold(other),
      " too: ",
      both.join(", ") || "none",
    ),
  ];
}
