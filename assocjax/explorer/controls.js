// ---- The state, which the address holds, and the page that follows it -------------------------

// Of the passages in the dialog: the associate, the token in whose list it is, and the matrix.
const CLOSED = { with: null, about: null, of: null };
const START = {
  token: meta.start,
  step: S - 1,
  layer: meta.layers.length - 1,
  scoring: meta.scorings[0],
  side: "row",
  compare: null,
  ...CLOSED,
};
const state = { ...START };
const SIDES = ["row", "column"];

function address() {
  const parts = {
    token: meta.vocabulary[state.token],
    step: meta.steps[state.step],
    layer: state.layer === "all" ? "all" : meta.layers[state.layer],
    scoring: state.scoring,
    side: state.side,
  };
  if (state.compare !== null) parts.compare = meta.vocabulary[state.compare];
  if (state.with !== null)
    Object.assign(parts, {
      passages: meta.vocabulary[state.with],
      about: meta.vocabulary[state.about],
      of: state.of,
    });
  return "#" + new URLSearchParams(parts);
}

// What the address does not say is as at the start. Tokens that the page does not have are told.
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1)),
    news = { ...START },
    unknown = [];
  const find = (name) => {
    if (!asked.has(name)) return null;
    if (!ids.has(asked.get(name))) unknown.push(asked.get(name));
    return ids.get(asked.get(name)) ?? null;
  };
  news.token = find("token") ?? START.token;
  news.compare = find("compare");
  news.with = find("passages");
  news.about = find("about") ?? news.token;
  const step = meta.steps.indexOf(Number(asked.get("step"))),
    layer = meta.layers.indexOf(Number(asked.get("layer")));
  if (asked.has("step") && step >= 0) news.step = step;
  if (asked.get("layer") === "all") news.layer = "all";
  else if (layer >= 0) news.layer = layer;
  if (meta.scorings.includes(asked.get("scoring"))) news.scoring = asked.get("scoring");
  if (SIDES.includes(asked.get("side"))) news.side = asked.get("side");
  news.of = meta.matrices.some(({ name }) => name === asked.get("of")) ? asked.get("of") : null;
  if (news.with === null || news.of === null || news.with === news.about) Object.assign(news, CLOSED);
  Object.assign(state, news);
  notice(unknown);
}

function notice(unknown) {
  $("notice").replaceChildren(
    ...unknown.map((word) => {
      const close = near(word).map((id) => names[id]);
      return make(
        "p",
        {},
        `“${visible(word)}” is not among the ${V.toLocaleString("en")} tokens of this page.` +
          (close.length ? ` Close to it: ${close.join(", ")}.` : ""),
      );
    }),
  );
}

let turn = 0,
  announcement = 0,
  drawn = "";

async function update() {
  const mine = ++turn;
  await loadText();
  const shown = await views();
  if (mine !== turn) return; // overtaken by another change
  const step = meta.steps[state.step];
  const sight = JSON.stringify({ ...state, ...CLOSED });
  if (sight !== drawn) {
    drawn = sight;
    redraw(shown, step);
    clearTimeout(announcement); // while a slider moves, only where it stops
    announcement = setTimeout(() => announce(shown, step), 250);
  }
  if (state.with !== null) openPassages();
  else if ($("passages").open) $("passages").close();
  document.body.dataset.shown = mine;
}

function redraw(shown, step) {
  $("step").value = state.step;
  $("step-text").textContent = `${step} of ${meta.steps[S - 1]}`;
  $("step").setAttribute("aria-valuetext", `step ${step}`);
  $("loss").textContent =
    meta.loss[state.step] === null ? "" : `loss ${meta.loss[state.step].toFixed(3)} nat`;
  for (const box of boxes) box.show();
  for (const name of ["layer", "scoring", "side"]) check(name, state[name]);
  const both = state.compare === null ? [] : [" and ", bold(state.compare)];
  $("when-title").replaceChildren(
    "When do associations of ",
    bold(state.token),
    ...both,
    " form, and in which weight?",
  );
  $("lists-title").replaceChildren("Associations of ", bold(state.token), ...both, ` at step ${step}`);
  drawWhen(shown);
  $("cards").classList.toggle("versus", state.compare !== null);
  $("cards").replaceChildren(...shown.flatMap((view) => tokensShown().map((token) => drawCard(view, token))));
}

function announce(shown, step) {
  const parts = shown
    .filter(({ weights }) => weights !== null)
    .map(({ matrix, layer, weights, lists }) => {
      const count = lists.common(layer, state.token)[state.step];
      return `${weights} ${count === null ? "none" : `${count} of ${lists.theory(state.token).length}`}`;
    });
  $("live").textContent = `${names[state.token]}, step ${step}, in common with theory: ${parts.join(", ")}`;
}

// Changes the state; Back returns to the one before, unless a slider only moves on.
function go(news, { push = true } = {}) {
  Object.assign(state, news);
  notice([]);
  if (push && address() !== location.hash) history.pushState(null, "", address());
  else history.replaceState(null, "", address());
  return update();
}
window.addEventListener("popstate", () => {
  fromAddress();
  update();
});

// ---- Search: a text field with a list of tokens, for the token and for the one beside it ------

function search(text) {
  const wanted = text.toLowerCase(),
    exact = [],
    begins = [],
    holds = [];
  for (const id of byFrequency) {
    if (meta.vocabulary[id] === text || names[id] === text) exact.push(id);
    else if (lower[id].startsWith(wanted)) begins.push(id);
    else if (lower[id].includes(wanted)) holds.push(id);
  }
  return [...exact, ...begins, ...holds].slice(0, 8);
}

// Tokens that share the longest beginning with a text.
function near(text) {
  for (let length = text.length - 1; length > 0; length--) {
    const found = search(text.slice(0, length)).filter((id) =>
      lower[id].startsWith(text.slice(0, length).toLowerCase()),
    );
    if (found.length) return found.slice(0, 3);
  }
  return [];
}

function searchBox(name, { chosen, current, hint }) {
  const input = $(name),
    options = $(`${name}-options`);
  let choices = [],
    active = -1;

  function open(found) {
    choices = found;
    active = found.length ? 0 : -1;
    options.replaceChildren(
      ...found.map((id, i) => {
        const option = make(
          "li",
          { role: "option", id: `${name}-option-${i}` },
          names[id],
          make("span", {}, `${(100 * meta.frequency[id]).toPrecision(2)} %`),
        );
        option.addEventListener("pointerdown", (event) => {
          event.preventDefault();
          choose(id);
        });
        return option;
      }),
    );
    options.hidden = !found.length;
    input.setAttribute("aria-expanded", String(found.length > 0));
    mark();
  }
  function mark() {
    [...options.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === active)));
    if (active < 0) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", `${name}-option-${active}`);
  }
  function choose(id) {
    open([]);
    input.value = names[id];
    input.select();
    go({ [chosen]: id });
  }
  function show() {
    const id = current();
    if (document.activeElement !== input) input.value = id === null ? "" : names[id];
    $(`${name}-hint`).textContent = hint(id);
  }
  function refuse() {
    $(`${name}-hint`).textContent = "no such token in the vocabulary";
    notice([input.value]);
  }

  input.addEventListener("input", () => {
    open(input.value ? search(input.value) : []);
    if (!input.value && chosen === "compare") go({ compare: null });
    if (input.value && !choices.length) refuse();
    else show();
  });
  input.addEventListener("focus", () => input.select());
  input.addEventListener("blur", () => {
    open([]);
    show();
  });
  input.addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move) {
      event.preventDefault();
      if (!choices.length) {
        open(search(input.value));
        return;
      }
      active = (active + move + choices.length) % choices.length;
      mark();
    } else if (event.key === "Enter") {
      event.preventDefault();
      const found = choices.length ? choices[active] : input.value ? search(input.value)[0] : undefined;
      if (found !== undefined) choose(found);
      else if (input.value) refuse();
    } else if (event.key === "Escape") {
      open([]);
      notice([]);
      input.value = current() === null ? "" : names[current()];
      show();
    }
  });
  return { show };
}

const boxes = [
  searchBox("token", {
    chosen: "token",
    current: () => state.token,
    hint: (id) =>
      `${(100 * meta.frequency[id]).toPrecision(2)} % of text, rank ${byFrequency.indexOf(id) + 1}`,
  }),
  searchBox("compare", {
    chosen: "compare",
    current: () => state.compare,
    hint: (id) => (id === null ? "shown side by side" : "empty it to end"),
  }),
];

// ---- Other controls ---------------------------------------------------------------------------

const layerNames = [...meta.layers.map((layer, i) => [String(i), String(layer)])];
if (meta.layers.length > 1) layerNames.push(["all", "all"]);
choice("layer", layerNames, (value) => go({ layer: value === "all" ? value : Number(value) }));
choice(
  "scoring",
  meta.scorings.map((name) => [name, name]),
  (value) => go({ scoring: value }),
);
choice(
  "side",
  SIDES.map((name) => [name, name]),
  (value) => go({ side: value }),
);

$("step").max = S - 1;
$("step").addEventListener("input", () => {
  stop();
  go({ step: Number($("step").value) }, { push: false });
});
$("controls").addEventListener("submit", (event) => event.preventDefault());

let timer = 0;
function stop() {
  clearInterval(timer);
  timer = 0;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}
$("play").addEventListener("click", () => {
  if (timer) {
    stop();
    return;
  }
  $("play").textContent = "Stop";
  $("play").setAttribute("aria-pressed", "true");
  if (state.step === S - 1) go({ step: 0 }, { push: false });
  timer = setInterval(() => {
    go({ step: state.step + 1 }, { push: false });
    if (state.step === S - 1) stop();
  }, 700);
});

// Within a list arrows move; Enter and a click show the passages.
$("cards").addEventListener("keydown", (event) => {
  const button = event.target.closest("li button"),
    move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!button || !move) return;
  event.preventDefault();
  const all = [...button.closest("ol").querySelectorAll("button")];
  const target = all[all.indexOf(button) + move];
  if (!target) return;
  button.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
});
$("cards").addEventListener("click", (event) => {
  const button = event.target.closest("li button");
  if (!button) return;
  const { matrix, token } = button.closest(".card").dataset;
  clicked = button.closest("ol").dataset.kind;
  go({ with: Number(button.dataset.id), about: Number(token), of: matrix });
});

// ---- Start ------------------------------------------------------------------------------------

const from = meta.provenance,
  config = from.config ?? {};
$("summary").textContent = [
  from.corpus_name,
  several(V, "token"),
  several(meta.layers.length, "layer"),
  config.learning_rate && `step size ${config.learning_rate}`,
  config.init_scale !== undefined && `start sd ${number(config.init_scale)}`,
  config.optimizer,
  from.incomplete,
]
  .filter(Boolean)
  .join(" · ");
$("text-about").textContent =
  meta.text === null
    ? "This page holds no text, and shows no passages."
    : `This page holds ${wholeText() ? "the whole text" : `the part of the text with the highest scores, ${meta.text.sequences.toLocaleString("en")} of ${several(meta.text.all_sequences, "sequence")}`}: ${several(meta.text.tokens, "token")}.`;
provenance();
fromAddress();
history.replaceState(null, "", address());
update();
