// ---- The text: how often tokens occur together, and where -------------------------------------

let text = null;  // { numbers, starts, ids }: sequence n holds ids[starts[n]] to ids[starts[n + 1] - 1]

async function loadText() {
  if (meta.text === null || text !== null) return;
  text = await block("text", (buffer) => {
    const take = reader(buffer), n = meta.text.sequences;
    const numbers = take(Uint32Array, n), lengths = take(Uint32Array, n);
    const starts = new Uint32Array(n + 1);
    lengths.forEach((length, i) => { starts[i + 1] = starts[i] + length; });
    return { numbers, starts, ids: take(Uint16Array, starts[n]) };
  });
}

const wholeText = () => meta.text !== null && meta.text.sequences === meta.text.all_sequences;

// How an associate stands to the token: in words, the order of the two, and whether they touch.
const STANDS = {
  next: "right after", last: "right before", after: "anywhere after", before: "anywhere before",
  together: "in one passage with",
};

const counts = new Map();  // token -> for each of STANDS the count of every other token

// Occurrences of other tokens after this one, occurrences of this one after others, or, together,
// sequences that hold both.
function countsOf(token) {
  if (counts.has(token)) return counts.get(token);
  const of = Object.fromEntries(Object.keys(STANDS).map((name) => [name, new Uint32Array(V)]));
  for (let n = 0; n < text.numbers.length; n++) {
    const sequence = text.ids.subarray(text.starts[n], text.starts[n + 1]);
    if (!sequence.includes(token)) continue;
    const distinct = new Set(sequence), earlier = new Set();
    for (const other of distinct) of.together[other]++;
    let seen = false;
    sequence.forEach((id, i) => {
      if (i && sequence[i - 1] === token) of.next[id]++;
      if (i && id === token) of.last[sequence[i - 1]]++;
      if (seen) of.after[id]++;
      if (id === token) for (const other of earlier) of.before[other]++;
      earlier.add(id);
      seen ||= id === token;
    });
  }
  if (counts.size > 50) counts.clear();
  counts.set(token, of);
  return of;
}

// null if the page does not know: it has no text, or not all of it and the pair is not in its part.
function timesTogether(token, id, stands) {
  if (text === null) return null;
  return countsOf(token)[stands][id] || (wholeText() ? 0 : null);
}

// The best place in each sequence, best first: { n, token, other }, the positions of both. As in the
// theory's Φ, an association at a distance weighs more where fewer tokens stand before its target;
// together, what is nearer is better.
function passages(token, other, stands) {
  const found = [];
  const order = { next: [token, other], after: [token, other], last: [other, token], before: [other, token] }[stands];
  for (let n = 0; n < text.numbers.length; n++) {
    const sequence = text.ids.subarray(text.starts[n], text.starts[n + 1]);
    let best = null, a = -1, b = -1;  // the last place of either
    sequence.forEach((id, i) => {
      let pair = null;
      if (order) {
        if (id === order[1] && a >= 0 && (i === a + 1 || stands === "after" || stands === "before"))
          pair = { first: a, second: i, rank: stands === "next" || stands === "last" ? 0 : i };
        if (id === order[0]) a = i;
      } else {
        if (id === token) a = i;
        if (id === other) b = i;
        if (a >= 0 && b >= 0) pair = { first: a, second: b, rank: Math.abs(a - b) };
      }
      if (pair !== null && (best === null || pair.rank < best.rank)) best = pair;
    });
    if (best === null) continue;
    const swapped = order !== undefined && order[0] === other;
    found.push({ n, rank: best.rank, token: swapped ? best.second : best.first, other: swapped ? best.first : best.second });
  }
  return found.sort((p, q) => p.rank - q.rank || p.n - q.n);
}

// Words of a sequence with the blanks between them, of which subwords know by themselves.
const subwords = meta.text !== null && !meta.text.word && meta.vocabulary.some((word) => /^[Ġ▁]/u.test(word));
const spelled = (id) => subwords ? names[id].replace(/[Ġ▁]/gu, " ").replace(/Ċ/g, "⏎") : names[id];
const gap = (id) => subwords || /^[.,;:!?)]/.test(names[id]) ? "" : " ";

const AROUND = 12;  // tokens shown beside a token of the pair

function passageText({ n, token, other }) {
  const sequence = text.ids.subarray(text.starts[n], text.starts[n + 1]), parts = [];
  let before = -1;
  sequence.forEach((id, i) => {
    if (Math.abs(i - token) > AROUND && Math.abs(i - other) > AROUND) return;
    if (i > before + 1) parts.push(parts.length ? " … " : "… ");
    else if (parts.length) parts.push(gap(id));
    const kind = i === token ? "token" : i === other ? "other" : null;
    parts.push(kind === null ? spelled(id) : make("mark", { class: kind }, spelled(id)));
    before = i;
  });
  if (before < sequence.length - 1) parts.push(" …");
  return make("p", {}, ...parts);
}
