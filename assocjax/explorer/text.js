// ---- The text: how often tokens occur together, and where -------------------------------------

let text = null; // { numbers, starts, ids }: sequence n holds ids[starts[n]] to ids[starts[n + 1] - 1]

async function loadText() {
  if (meta.text === null || text !== null) return;
  text = await block("text", (buffer) => {
    const take = reader(buffer),
      n = meta.text.sequences;
    const numbers = take(Uint32Array, n),
      lengths = take(Uint32Array, n);
    const starts = new Uint32Array(n + 1);
    lengths.forEach((length, i) => {
      starts[i + 1] = starts[i] + length;
    });
    return { numbers, starts, ids: take(Uint16Array, starts[n]) };
  });
}

const wholeText = () => meta.text !== null && meta.text.sequences === meta.text.all_sequences;

const sequence = (n) => text.ids.subarray(text.starts[n], text.starts[n + 1]);

// Where an associate stands relative to the token, in words; `first` says which of the two comes
// first. Of an attending position both are inputs, which the last token of a sequence is not.
const STANDS = {
  next: { says: "right after", first: "token" },
  last: { says: "right before", first: "other" },
  after: { says: "after", first: "token" },
  before: { says: "before", first: "other" },
  key: { says: "before", first: "other", inputs: true },
  query: { says: "after", first: "token", inputs: true },
};

// All places of an association: their number of pairs of positions, and of each sequence the best
// place, best first, as { n, first, second }. As in Φ, a pair at a distance weighs more if fewer
// tokens stand before the second.
function occurrences(first, second, { adjacent = false, inputs = false } = {}) {
  const places = [];
  let pairs = 0;
  for (let n = 0; n < text.numbers.length; n++) {
    const ids = sequence(n),
      end = ids.length - (inputs ? 1 : 0);
    let before = 0,
      last = -1,
      best = null;
    for (let i = 0; i < end; i++) {
      if (ids[i] === second && last >= 0 && (!adjacent || last === i - 1)) {
        pairs += adjacent ? 1 : before;
        best ??= { n, first: last, second: i };
      }
      if (ids[i] === first) {
        before++;
        last = i;
      }
    }
    if (best) places.push(best);
  }
  if (!adjacent) places.sort((p, q) => p.second - q.second || p.n - q.n);
  return { pairs, places };
}

// How often each token directly follows another, how often each is an input, and for one token the
// sums of 1/(t+1) over its places before each target: counts of B, of its rows, and a column of Φ.
function follows(before, after) {
  const counts = new Uint32Array(V);
  for (let n = 0; n < text.numbers.length; n++) {
    const ids = sequence(n);
    for (let i = 1; i < ids.length; i++) {
      if (after === undefined ? ids[i - 1] === before : ids[i] === after)
        counts[after === undefined ? ids[i] : ids[i - 1]]++;
    }
  }
  return counts;
}
function inputs() {
  const counts = new Uint32Array(V);
  for (let n = 0; n < text.numbers.length; n++)
    sequence(n)
      .subarray(0, -1)
      .forEach((id) => {
        counts[id]++;
      });
  return counts;
}
function announced(token) {
  const sums = new Float64Array(V);
  for (let n = 0; n < text.numbers.length; n++) {
    const ids = sequence(n);
    let before = 0;
    for (let i = 1; i < ids.length; i++) {
      if (ids[i - 1] === token) before++;
      sums[ids[i]] += before / i;
    }
  }
  return sums;
}

// The third tokens through which two are associated: those that both follow (B^T B), or those that
// one announces and the other precedes (Φ^T B^T), with the largest summands of the entry first.
function thirds(matrix, side, token, other) {
  let terms, legs;
  const mean = (values) => values.reduce((sum, v) => sum + v, 0) / V;
  if (matrix.name === "interchangeability") {
    const [a, b, n] = [follows(undefined, token), follows(undefined, other), inputs()];
    terms = (k) => (a[k] && b[k] ? (a[k] - n[k] / V) * (b[k] - n[k] / V) : null);
    legs = (k) => [
      [k, token, true],
      [k, other, true],
    ];
  } else {
    const [announces, precedes] = side === "row" ? [token, other] : [other, token];
    const a = announced(announces),
      b = follows(precedes),
      means = [mean(a), mean(b)];
    terms = (y) => (a[y] && b[y] ? (a[y] - means[0]) * (b[y] - means[1]) : null);
    legs = (y) => [
      [announces, y, false],
      [precedes, y, true],
    ];
  }
  return [...meta.vocabulary.keys()]
    .map((id) => ({ id, term: terms(id), legs: legs(id) }))
    .filter(({ term }) => term !== null)
    .sort((p, q) => q.term - p.term);
}

// Words of a sequence with the blanks between them, of which subwords know by themselves.
const subwords = meta.text !== null && !meta.text.word && meta.vocabulary.some((word) => /^[Ġ▁]/u.test(word));
const spelled = (id) => (subwords ? names[id].replace(/[Ġ▁]/gu, " ").replace(/Ċ/g, "⏎") : names[id]);
const gap = (id) => (subwords || /^[.,;:!?)]/.test(names[id]) ? "" : " ");

const AROUND = 12; // tokens shown beside a token of the pair

// `marks`: position -> its kind, "token", "other" or "third".
function passageText(n, marks) {
  const parts = [],
    ids = sequence(n),
    centres = [...marks.keys()];
  let before = -1;
  ids.forEach((id, i) => {
    if (centres.every((centre) => Math.abs(i - centre) > AROUND)) return;
    if (i > before + 1) parts.push(parts.length ? " … " : "… ");
    else if (parts.length) parts.push(gap(id));
    parts.push(marks.has(i) ? make("mark", { class: marks.get(i) }, spelled(id)) : spelled(id));
    before = i;
  });
  if (before < ids.length - 1) parts.push(" …");
  return make(
    "p",
    { "data-sequence": text.numbers[n] },
    make("small", {}, `sequence ${text.numbers[n]} `),
    ...parts,
  );
}
