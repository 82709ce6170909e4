"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const meta = JSON.parse($("meta").textContent);
  const V = meta.vocabulary.length, K = meta.k, S = meta.steps.length;
  const lower = meta.vocabulary.map((word) => word.toLowerCase());
  const byFrequency = [...meta.vocabulary.keys()].sort(
    (a, b) => meta.frequency[b] - meta.frequency[a] || a - b);
  const ids = new Map(meta.vocabulary.map((word, i) => [word, i]));
  const state = { token: meta.start, step: S - 1, layer: meta.layers.length - 1,
                  scoring: "corrected", side: "row" };

  // ---- Data -------------------------------------------------------------------------------

  const blocks = new Map();  // name -> a promise of its arrays

  function block(matrix) {
    const name = `${matrix.name}.${state.scoring}.${matrix.sided ? state.side : "row"}`;
    if (!blocks.has(name)) blocks.set(name, unpack(name, matrix));
    return blocks.get(name);
  }

  async function unpack(name, matrix) {
    const element = $(name), text = atob(element.textContent);
    element.remove();
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const buffer = await new Response(stream).arrayBuffer();
    let at = 0;
    const take = (type, length) => {
      const part = new type(buffer, at, length);
      at += part.byteLength;
      return part;
    };
    const L = matrix.weights === null ? 0 : matrix.layered ? meta.layers.length : 1;
    const lists = L * S * V;
    const [low, high] = take(Float64Array, 2);  // see packing.py
    const theory = { size: take(Uint16Array, V), ids: take(Uint16Array, V * K) };
    const weights = { size: take(Uint16Array, lists), ids: take(Uint16Array, lists * K) };
    theory.scores = take(Int8Array, V * K);
    weights.scores = take(Int8Array, lists * K);
    const cosine = take(Int8Array, lists);
    const size = (code) => Math.exp(low + (high - low) * (code - 1) / 65534);
    const length = (of, list) => {  // a list may end before K
      const end = of.scores.subarray(list * K, list * K + K).indexOf(-1);
      return end < 0 ? K : end;
    };
    const read = (of, list) => Array.from({ length: length(of, list) }, (_, r) => ({
      id: of.ids[list * K + r], score: of.scores[list * K + r] / 127 * size(of.size[list]) }));
    const place = (layer, step, token) => ((L > 1 ? layer : 0) * V + token) * S + step;
    return {
      theory: (token) => read(theory, token),
      weights: (layer, step, token) => read(weights, place(layer, step, token)),
      cosine: (layer, step, token) => {
        const code = cosine[place(layer, step, token)];
        return code === -128 ? null : code / 127;
      },
      // How many the theory lists, and how many of these the weights do: null without a theory's
      // list, or where weights rank nothing.
      listed: (token) => length(theory, token),
      common: (layer, step, token) => {
        const list = place(layer, step, token), listed = length(theory, token);
        if (!listed || cosine[list] === -128) return null;
        const expected = theory.ids.subarray(token * K, token * K + listed);
        let count = 0;
        for (let r = 0; r < length(weights, list); r++) count += expected.includes(weights.ids[list * K + r]);
        return count;
      },
    };
  }

  // ---- Elements ---------------------------------------------------------------------------

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function draw(tag, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // Blanks and what cannot be seen, which some tokenizers have, are shown: most of it as in Python.
  const escape = (character) => {
    const code = character.codePointAt(0), [kind, digits] = code < 256 ? ["x", 2] : code < 65536 ? ["u", 4] : ["U", 8];
    return `\\${kind}${code.toString(16).padStart(digits, "0")}`;
  };
  const shown = (id) => meta.vocabulary[id]
    .replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍")
    .replace(/[\p{C}\p{Z}]/gu, escape) || "∅";
  const bold = (id) => make("b", { class: "token" }, shown(id));
  const number = (x) => x === 0 ? "0" : Math.abs(x) >= 0.001 && Math.abs(x) < 1e4
    ? String(Number(x.toPrecision(2))) : x.toExponential(1);
  const weightsOf = (matrix) => matrix.weights.replace("_l", `_${meta.layers[state.layer]}`);

  // W_O^T as a symbol: the letter after _ or the digits hang, the T after ^ stands.
  const symbol = (text) => text.split(/([_^](?:\d+|\w))/).filter(Boolean).map((part) =>
    "_^".includes(part[0]) ? make(part[0] === "_" ? "sub" : "sup", {}, part.slice(1)) : part);

  function sentence(text) {
    const [before, after] = text.split("{}");
    return [before, bold(state.token), after];
  }

  // ---- When -------------------------------------------------------------------------------

  function drawWhen(learned, arrays) {
    const rows = [];
    learned.forEach((matrix, m) => {
      const counts = meta.steps.map((_, s) => arrays[m].common(state.layer, s, state.token));
      const listed = arrays[m].listed(state.token);
      const first = counts.findIndex((count) => count !== null && 2 * count >= listed);
      const strip = make("div", { class: "strip", role: "group",
                                  "aria-label": `${weightsOf(matrix)} over steps` });
      counts.forEach((count, s) => {
        const what = count !== null ? `${count} of ${listed} in common`
          : listed ? "no list yet" : "no list in theory";
        const cell = make("button", {
          type: "button", class: `cell${count === null ? " none" : ""}${s === state.step ? " now" : ""}`,
          style: `--share: ${(count ?? 0) / (listed || 1)}`, title: `step ${meta.steps[s]}: ${what}`,
          "aria-label": `step ${meta.steps[s]}: ${what}`, tabindex: "-1" });
        cell.addEventListener("click", () => change({ step: s }));
        strip.append(cell);
      });
      rows.push(
        make("div", { class: "name" }, ...symbol(weightsOf(matrix)), " ",
             make("small", {}, ...symbol(matrix.theory))), strip,
        make("div", { class: "formed" }, !listed ? "no list in theory"
          : first < 0 ? "never half" : `half by step ${meta.steps[first]}`));
    });
    const ticks = make("div", { class: "strip", "aria-hidden": "true" });
    const every = Math.ceil(S / 8);
    meta.steps.forEach((step, s) => {
      const kind = `tick${s === state.step ? " now" : ""}${s % every === 0 ? " label" : ""}`;
      ticks.append(make("div", { class: kind }, String(step)));
    });
    rows.push(make("div", { class: "name empty" }), ticks,
              make("div", { class: "formed empty" }, "step"));
    $("when").replaceChildren(...rows);
    $("when-title").replaceChildren("When do associations of ", bold(state.token), " form, and in which weight?");
  }

  // ---- Cards ------------------------------------------------------------------------------

  function column(title, best, other, kind) {
    const heading = make("h4", {}, ...symbol(title));
    if (!best.length) return [heading, make("p", { class: "nothing" }, kind === "theory"
      ? "No association." : "No association at this step.")];
    const known = new Set(other?.map((entry) => entry.id));
    const largest = best[0].score || 1;
    const list = make("ol", { "aria-label": title, "data-kind": kind });
    best.forEach((entry, rank) => {
      const both = known.has(entry.id);
      const button = make(
        "button",
        { type: "button", tabindex: rank ? "-1" : "0", "data-id": entry.id, "data-score": entry.score,
          style: `--size: ${entry.score / largest}`,
          "aria-label": `${shown(entry.id)}, ${number(entry.score)}, ${both ? "in both" : `only in ${kind}`}` },
        make("span", { class: "mark", "aria-hidden": "true" }, both ? "●" : kind === "theory" ? "○" : "◇"),
        make("span", { class: "word" }, shown(entry.id)),
        make("span", { class: "number" }, number(entry.score)));
      button.title = shown(entry.id);
      list.append(make("li", { class: both ? "both" : kind }, button));
    });
    return [heading, list];
  }

  function drawCard(matrix, arrays) {
    const { token, step, layer } = state;
    const expected = arrays.theory(token);
    const found = matrix.weights === null ? null : arrays.weights(layer, step, token);
    const card = make("article", { class: "card", "data-matrix": matrix.name },
                      make("h3", {}, ...sentence(matrix[state.side])));
    const pair = make("div", { class: "pair" });
    const theory = column(`theory: ${matrix.theory}`, expected, found, "theory");
    pair.append(...place(theory, 1));
    if (matrix.weights === null) {
      const note = "It shows in the rows of V and, through Σ, in the columns of V W_O.";
      pair.append(...place([make("h4", {}, "weights"), make("p", { class: "nothing" }, ...symbol(note))], 3));
      card.append(make("p", { class: "score" }, "no weight by itself learns this"), pair);
      return card;
    }
    const common = arrays.common(layer, step, token), cosine = arrays.cosine(layer, step, token);
    const missing = expected.length ? "not comparable at this step" : "no list in theory";
    card.append(make("p", { class: "score" }, ...(common === null ? [missing] : [
      make("strong", {}, `${common} of ${expected.length}`), " in common", cosine === null ? "" : `, cosine ${cosine.toFixed(2)}`])));
    pair.append(...place(column(weightsOf(matrix), found, expected, "weights"), 3));
    if (expected.length && found.length) pair.append(links(expected, found));
    card.append(pair, curve(matrix, arrays));
    return card;
  }

  function place([heading, list], at) {
    heading.style.gridArea = `1 / ${at}`;
    list.style.gridArea = `2 / ${at}`;
    return [heading, list];
  }

  function links(expected, found) {
    const height = 24 * Math.max(expected.length, found.length);
    const svg = draw("svg", { viewBox: `0 0 32 ${height}`, height, preserveAspectRatio: "none",
                              "aria-hidden": "true" });
    expected.forEach((entry, i) => {
      const j = found.findIndex((other) => other.id === entry.id);
      if (j >= 0) svg.append(draw("line", { x1: 1, y1: 24 * i + 11, x2: 31, y2: 24 * j + 11 }));
    });
    return svg;
  }

  function curve(matrix, arrays) {
    const W = 380, H = 46, x = (s) => 14 + (W - 28) * (S > 1 ? s / (S - 1) : 0.5), y = (v) => 4 + H * (1 - v);
    const svg = draw("svg", { class: "curve", viewBox: `0 0 ${W} 66`, role: "img" });
    const common = meta.steps.map((_, s) => arrays.common(state.layer, s, state.token));
    const listed = arrays.listed(state.token);
    const share = common.map((count) => count === null ? null : count / listed);
    const cosine = meta.steps.map((_, s) => arrays.cosine(state.layer, s, state.token));
    const mean = meta.mean[state.scoring][state.side][matrix.name];
    const last = common.findLast((count) => count !== null);
    svg.setAttribute("aria-label", `Overlap over training: ${last ?? 0} of ${listed} in common at the end`);
    const line = (kind, values) => {
      let path = "", pen = "M";
      values.forEach((v, s) => {
        if (v === null) { pen = "M"; return; }
        path += `${pen}${x(s).toFixed(1)} ${y(Math.max(0, v)).toFixed(1)}`;
        pen = "L";
      });
      return draw("path", { class: kind, d: path || "M0 0" });
    };
    svg.append(
      draw("line", { class: "axis", x1: 14, x2: W - 14, y1: y(0), y2: y(0) }),
      draw("line", { class: "axis", x1: 14, x2: W - 14, y1: y(1), y2: y(1) }),
      draw("text", { x: 10, y: y(0) + 3, "text-anchor": "end" }, "0"),
      draw("text", { x: 10, y: y(1) + 4, "text-anchor": "end" }, "1"),
      line("mean", mean[matrix.layered ? state.layer : 0]), line("cosine", cosine), line("overlap", share),
      draw("line", { class: "now", x1: x(state.step), x2: x(state.step), y1: y(1) - 3, y2: y(0) + 3 }),
      draw("text", { x: x(0), y: 65 }, `step ${meta.steps[0]}`),
      draw("text", { x: x(S - 1), y: 65, "text-anchor": "end" }, String(meta.steps[S - 1])));
    if (share[state.step] !== null)
      svg.append(draw("circle", { class: "dot", cx: x(state.step), cy: y(share[state.step]), r: 3.5 }));
    return svg;
  }

  // ---- The page follows the state -------------------------------------------------------------

  let turn = 0, announcement = 0;

  async function update() {
    const mine = ++turn;
    const arrays = await Promise.all(meta.matrices.map(block));
    if (mine !== turn) return;  // overtaken by another change
    const learned = meta.matrices.filter((matrix) => matrix.weights !== null);
    const step = meta.steps[state.step];
    $("step").value = state.step;
    $("step-text").textContent = `${step} of ${meta.steps[S - 1]}`;
    $("step").setAttribute("aria-valuetext", `step ${step}`);
    $("loss").textContent = meta.loss[state.step] === null ? "" : `loss ${meta.loss[state.step].toFixed(3)} nat`;
    if (document.activeElement !== $("token")) $("token").value = shown(state.token);
    const rank = byFrequency.indexOf(state.token) + 1;
    $("token-hint").textContent =
      `${(100 * meta.frequency[state.token]).toPrecision(2)} % of text, rank ${rank}`;
    drawWhen(learned, arrays);
    $("lists-title").replaceChildren("Associations of ", bold(state.token), ` at step ${step}`);
    $("cards").replaceChildren(...meta.matrices.map((matrix, m) => drawCard(matrix, arrays[m])));
    for (const name of ["layer", "scoring", "side"])
      for (const input of document.getElementsByName(name))
        input.checked = input.value === String(state[name]);
    history.replaceState(null, "", "#" + new URLSearchParams({
      token: meta.vocabulary[state.token], step, layer: meta.layers[state.layer],
      scoring: state.scoring, side: state.side }));
    document.body.dataset.shown = mine;
    clearTimeout(announcement);  // while a slider moves, only where it stops
    announcement = setTimeout(() => {
      const parts = learned.map((matrix, m) => {
        const count = arrays[m].common(state.layer, state.step, state.token);
        return `${matrix.name.replace("_", "-")} ${count === null ? "none" : `${count} of ${arrays[m].listed(state.token)}`}`;
      });
      $("live").textContent = `${shown(state.token)}, step ${step}, in common with theory: ${parts.join(", ")}`;
    }, 250);
  }

  function change(news) {
    Object.assign(state, news);
    return update();
  }

  // ---- Search -----------------------------------------------------------------------------

  let choices = [], active = -1;

  function search(text) {
    const wanted = text.toLowerCase();
    const exact = [], begins = [], holds = [];
    for (const id of byFrequency) {
      if (meta.vocabulary[id] === text || shown(id) === text) exact.push(id);
      else if (lower[id].startsWith(wanted)) begins.push(id);
      else if (lower[id].includes(wanted)) holds.push(id);
    }
    return [...exact, ...begins, ...holds].slice(0, 8);
  }

  function open(found) {
    choices = found;
    active = found.length ? 0 : -1;
    $("options").replaceChildren(...found.map((id, i) => {
      const option = make("li", { role: "option", id: `option-${i}` }, shown(id),
                          make("span", {}, `${(100 * meta.frequency[id]).toPrecision(2)} %`));
      option.addEventListener("pointerdown", (event) => { event.preventDefault(); choose(id); });
      return option;
    }));
    $("options").hidden = !found.length;
    $("token").setAttribute("aria-expanded", String(found.length > 0));
    mark();
  }

  function mark() {
    [...$("options").children].forEach((option, i) => option.setAttribute("aria-selected", String(i === active)));
    if (active < 0) $("token").removeAttribute("aria-activedescendant");
    else $("token").setAttribute("aria-activedescendant", `option-${active}`);
  }

  function choose(id) {
    open([]);
    $("token").value = shown(id);
    $("token").select();
    change({ token: id });
  }

  $("token").addEventListener("input", (event) => {
    const text = event.target.value;
    open(text ? search(text) : []);
    if (text && !choices.length) $("token-hint").textContent = "no such token in the vocabulary";
  });
  $("token").addEventListener("focus", (event) => event.target.select());
  $("token").addEventListener("blur", () => { open([]); $("token").value = shown(state.token); });
  $("token").addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move) {
      event.preventDefault();
      if (!choices.length) { open(search($("token").value)); return; }
      active = (active + move + choices.length) % choices.length;
      mark();
    } else if (event.key === "Enter") {
      event.preventDefault();
      const found = choices.length ? choices[active] : search($("token").value)[0];
      if ($("token").value && found !== undefined) choose(found);
      else $("live").textContent = "no such token in the vocabulary";
    } else if (event.key === "Escape") {
      open([]);
      $("token").value = shown(state.token);
    }
  });

  // ---- Other controls -----------------------------------------------------------------------

  function choice(name, options) {
    const group = make("div", { class: "choice" });
    for (const [value, label] of options) {
      const input = make("input", { type: "radio", name, value });
      input.addEventListener("change", () => change({ [name]: name === "layer" ? Number(value) : value }));
      group.append(make("label", {}, input, label));
    }
    $(name).append(group);
  }
  choice("layer", meta.layers.map((layer, i) => [String(i), String(layer)]));
  choice("scoring", ["raw", "independence", "corrected"].map((name) => [name, name]));
  choice("side", [["row", "row"], ["column", "column"]]);

  $("step").max = S - 1;
  $("step").addEventListener("input", (event) => { stop(); change({ step: Number(event.target.value) }); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());

  let timer = 0;
  function stop() {
    clearInterval(timer);
    timer = 0;
    $("play").textContent = "Play";
    $("play").setAttribute("aria-pressed", "false");
  }
  $("play").addEventListener("click", () => {
    if (timer) { stop(); return; }
    $("play").textContent = "Stop";
    $("play").setAttribute("aria-pressed", "true");
    if (state.step === S - 1) change({ step: 0 });
    timer = setInterval(() => {
      change({ step: state.step + 1 });
      if (state.step === S - 1) stop();
    }, 700);
  });

  // Within a list arrows move; Enter and a click look the token up.
  $("cards").addEventListener("keydown", (event) => {
    const button = event.target.closest("li button");
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!button || !move) return;
    event.preventDefault();
    const next = [...button.closest("ol").querySelectorAll("button")];
    const target = next[next.indexOf(button) + move];
    if (!target) return;
    button.tabIndex = -1;
    target.tabIndex = 0;
    target.focus();
  });
  $("cards").addEventListener("click", async (event) => {
    const button = event.target.closest("li button");
    if (!button) return;
    const { matrix } = button.closest(".card").dataset, { kind } = button.closest("ol").dataset;
    await change({ token: Number(button.dataset.id) });
    // The lists are new ones: the focus stays where it was.
    document.querySelector(`[data-matrix="${matrix}"] [data-kind="${kind}"] button`)?.focus({ preventScroll: true });
  });

  // ---- Start ------------------------------------------------------------------------------

  function fromAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const token = ids.get(asked.get("token")), step = meta.steps.indexOf(Number(asked.get("step")));
    const layer = meta.layers.indexOf(Number(asked.get("layer")));
    if (token !== undefined) state.token = token;
    if (asked.has("step") && step >= 0) state.step = step;
    if (layer >= 0) state.layer = layer;
    if (["raw", "independence", "corrected"].includes(asked.get("scoring"))) state.scoring = asked.get("scoring");
    if (["row", "column"].includes(asked.get("side"))) state.side = asked.get("side");
  }
  window.addEventListener("hashchange", () => { fromAddress(); update(); });

  const from = meta.provenance, config = from.config ?? {};
  $("summary").textContent = [
    from.corpus_name, `${V} tokens`, `${meta.layers.length} layer${meta.layers.length === 1 ? "" : "s"}`,
    config.learning_rate && `step size ${config.learning_rate}`,
    config.init_scale !== undefined && `start sd ${number(config.init_scale)}`, config.optimizer, from.incomplete,
  ].filter(Boolean).join(" · ");
  const told = (value) => typeof value !== "object" || value === null ? String(value)
    : Object.entries(value).map(([key, v]) => `${key}: ${JSON.stringify(v)}`).join(", ");
  for (const [name, value] of Object.entries(from))
    $("provenance").append(make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, told(value)));
  fromAddress();
  update();
})();
