// ---- The dialog with the passages of an association -------------------------------------------

const MORE = 10; // passages shown at first, and added by each press of the button

function openPassages() {
  const { about: token, with: other, of } = state,
    dialog = $("passages");
  const matrix = meta.matrices.find(({ name }) => name === of);
  const stands = matrix.stands[state.side];
  $("passages-title").replaceChildren(bold(token), " and ", bold(other));
  $("passages-list").replaceChildren();
  $("passages-more").hidden = true;
  $("look-up").textContent = `Look up ${names[other]}`;
  $("beside").textContent = `Compare ${names[token]} with ${names[other]}`;
  const about = [...sentence(matrix[state.side], token), " (", ...symbol(matrix.theory), "). "];
  if (text === null) {
    about.push(
      "This page holds no text, so that it cannot show passages: ",
      make("code", {}, "assocjax explore"),
      " adds the text that it is given with ",
      make("code", {}, "--corpus"),
      ".",
    );
  } else if (stands === "third") {
    const found = thirds(matrix, state.side, token, other);
    about.push(
      `In ${part()}, ${several(found.length, "third token")} ${found.length === 1 ? "connects" : "connect"} the two: `,
      matrix.name === "interchangeability"
        ? "both follow it directly. "
        : "one announces it from afar, the other stands right before it. ",
      found.length ? "For each a passage with either, those that add most to the entry first." : "",
    );
    list(found, ({ id, legs }) =>
      make(
        "li",
        {},
        make("h3", {}, "through ", bold(id)),
        ...legs.map(([first, second, adjacent]) => {
          const best = occurrences(first, second, { adjacent }).places[0];
          const kind = (one) => (one === token ? "token" : one === other ? "other" : "third");
          return passageText(
            best.n,
            new Map([
              [best.first, kind(first)],
              [best.second, kind(second)],
            ]),
          );
        }),
      ),
    );
  } else {
    const { says, first, inputs } = STANDS[stands],
      adjacent = stands === "next" || stands === "last";
    const order = first === "token" ? [token, other] : [other, token];
    const { pairs, places } = occurrences(...order, { adjacent, inputs });
    about.push(
      `In ${part()}, `,
      bold(other),
      ` stands ${says} `,
      bold(token),
      ` ${several(pairs, "time")}, in ${several(places.length, "sequence")}.`,
    );
    if (!adjacent && places.length)
      about.push(
        " One place of each; those with the fewest tokens before them, which weigh most in Φ, come first.",
      );
    if (matrix.name === "composed")
      about.push(" The score counts also what stands after the one and is used like the other.");
    const kinds = first === "token" ? ["token", "other"] : ["other", "token"];
    list(places, (one) =>
      make(
        "li",
        {},
        passageText(
          one.n,
          new Map([
            [one.first, kinds[0]],
            [one.second, kinds[1]],
          ]),
        ),
      ),
    );
  }
  $("passages-about").replaceChildren(...about);
  if (!dialog.open) dialog.showModal();
}

const part = () => (wholeText() ? "the text" : "the part of the text that this page holds");

function list(found, show, from = 0) {
  const next = found.slice(from, from + MORE),
    items = next.map(show);
  $("passages-list").append(...items);
  const left = found.length - from - next.length,
    button = $("passages-more");
  button.hidden = left <= 0;
  button.textContent = `Show ${Math.min(left, MORE)} more of ${found.length}`;
  button.onclick = () => list(found, show, from + MORE);
  if (from) items[0].scrollIntoView({ block: "nearest" });
}

let clicked = "theory"; // the kind of list from which the dialog was opened

async function leave(news) {
  const { of } = state;
  await go({ ...news, ...CLOSED });
  // The lists are new ones: the focus stays where it was.
  (document.querySelector(`[data-matrix="${of}"] [data-kind="${clicked}"] button`) ?? $("token")).focus({
    preventScroll: true,
  });
}
$("passages").addEventListener("close", () => {
  if (state.with !== null) go(CLOSED);
});
$("passages").addEventListener("click", (event) => {
  // beside the dialog
  if (event.target === $("passages")) $("passages").close();
});
$("passages-close").addEventListener("click", () => $("passages").close());
$("look-up").addEventListener("click", () => leave({ token: state.with, compare: null }));
$("beside").addEventListener("click", () => leave({ token: state.about, compare: state.with }));
