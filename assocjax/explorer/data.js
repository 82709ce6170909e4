// ---- Tokens, and lists that are unpacked when they are shown ----------------------------------

const V = meta.vocabulary.length,
  K = meta.k,
  S = meta.steps.length;
const names = meta.vocabulary.map(visible);
const lower = meta.vocabulary.map((word) => word.toLowerCase());
const ids = new Map(meta.vocabulary.map((word, i) => [word, i]));
const byFrequency = [...meta.vocabulary.keys()].sort(
  (a, b) => meta.frequency[b] - meta.frequency[a] || a - b,
);
const learned = meta.matrices.filter((matrix) => matrix.weights !== null);
const planted = new Map(
  Object.entries(meta.planted).map(([matrix, pairs]) => [
    matrix,
    new Set(pairs.map(([row, column]) => row * V + column)),
  ]),
);
const isPlanted = (matrix, side, token, id) =>
  planted.get(matrix.name)?.has(side === "row" ? token * V + id : id * V + token) ?? false;

const lists = (matrix, scoring, side) =>
  block(`${matrix.name}.${scoring}.${matrix.sided ? side : "row"}`, (buffer) => readLists(buffer, matrix));

function readLists(buffer, matrix) {
  const take = reader(buffer);
  const L = matrix.weights === null ? 0 : matrix.layered ? meta.layers.length : 1;
  const count = L * S * V;
  const [low, high] = take(Float64Array, 2);
  const counts = [take(Uint32Array, V * K), take(Uint32Array, count * K)];
  const theory = { counts: counts[0], size: take(Uint16Array, V), ids: take(Uint16Array, V * K) };
  const weights = { counts: counts[1], size: take(Uint16Array, count), ids: take(Uint16Array, count * K) };
  theory.scores = take(Int8Array, V * K);
  weights.scores = take(Int8Array, count * K);
  const cosines = take(Int8Array, count);
  const size = (code) => Math.exp(low + ((high - low) * (code - 1)) / 65534);
  const place = (layer, step, token) => ((L > 1 ? layer : 0) * V + token) * S + step;

  function read(of, list) {
    // which may end before K
    const found = [];
    for (let at = list * K; at < (list + 1) * K && of.scores[at] !== -1; at++)
      found.push({
        id: of.ids[at],
        count: of.counts[at],
        score: (of.scores[at] / 127) * size(of.size[list]),
      });
    return found;
  }

  return {
    theory: (token) => read(theory, token),
    weights: (layer, step, token) => read(weights, place(layer, step, token)),
    cosine: (layer, step, token) => {
      const code = cosines[place(layer, step, token)];
      return code === -128 ? null : code / 127;
    },
    // How many of the theory's list the weights' list holds too at each step: null without a list
    // in theory, or where the weights rank nothing.
    common(layer, token) {
      const expected = new Set(this.theory(token).map(({ id }) => id));
      return meta.steps.map((_, step) => {
        if (!expected.size || cosines[place(layer, step, token)] === -128) return null;
        return this.weights(layer, step, token).filter(({ id }) => expected.has(id)).length;
      });
    },
  };
}
