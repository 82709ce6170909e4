// ---- The dialog with the passages of an association -------------------------------------------

const MORE = 10;  // passages shown at first, and added by each press of the button

function openPassages() {
  const { about: token, with: other, of } = state, dialog = $("passages");
  const matrix = meta.matrices.find(({ name }) => name === of);
  const stands = matrix.stands[state.side];
  $("passages-title").replaceChildren(bold(token), " and ", bold(other));
  $("passages-list").replaceChildren();
  $("passages-more").hidden = true;
  $("look-up").textContent = `Look up ${names[other]}`;
  $("beside").textContent = `Compare ${names[token]} with ${names[other]}`;
  const about = [...sentence(matrix[state.side], token), " (", ...symbol(matrix.theory), "). "];
  if (text === null) {
    about.push("This page holds no text, so that it cannot show passages: ", make("code", {}, "assocjax explore"),
               " adds the text that it is given with ", make("code", {}, "--corpus"), ".");
  } else {
    const found = passages(token, other, stands);
    const count = timesTogether(token, other, stands) ?? 0;
    const part = wholeText() ? "the text" : "the part of the text that this page holds";
    if (!found.length) about.push(`In ${part}, ${names[other]} never stands ${STANDS[stands]} ${names[token]}.`);
    else if (stands === "together") about.push(`Both are in ${several(found.length, "passage")} of ${part}; those where they are nearest come first.`);
    else about.push(`${names[other]} stands ${STANDS[stands]} ${names[token]} ${several(count, "time")} in ${part}, in ${several(found.length, "passage")}`,
                    stands === "next" || stands === "last" ? "." : "; those with the fewest tokens before the pair, which weigh most in Φ, come first.");
    if (!matrix.direct) about.push(" This association goes through third tokens, so that its score depends on more than these passages.");
    listPassages(found, 0);
  }
  $("passages-about").replaceChildren(...about);
  if (!dialog.open) dialog.showModal();
}

function listPassages(found, from) {
  const next = found.slice(from, from + MORE);
  $("passages-list").append(...next.map((one) => make("li", { "data-sequence": text.numbers[one.n] },
    make("small", {}, `sequence ${text.numbers[one.n]}`), passageText(one))));
  const left = found.length - from - next.length, button = $("passages-more");
  button.hidden = left <= 0;
  button.textContent = `Show ${Math.min(left, MORE)} more of ${found.length}`;
  button.onclick = () => {
    listPassages(found, from + MORE);
    $("passages-list").children[from + MORE].scrollIntoView({ block: "nearest" });
  };
}

let clicked = "theory";  // the kind of list from which the dialog was opened

async function leave(news) {
  const { of } = state;
  await go({ ...news, ...CLOSED });
  // The lists are new ones: the focus stays where it was.
  (document.querySelector(`[data-matrix="${of}"] [data-kind="${clicked}"] button`) ?? $("token")).focus({ preventScroll: true });
}
$("passages").addEventListener("close", () => { if (state.with !== null) go(CLOSED); });
$("passages").addEventListener("click", (event) => {  // beside the dialog
  if (event.target === $("passages")) $("passages").close();
});
$("passages-close").addEventListener("click", () => $("passages").close());
$("look-up").addEventListener("click", () => leave({ token: state.with, compare: null }));
$("beside").addEventListener("click", () => leave({ token: state.about, compare: state.with }));
