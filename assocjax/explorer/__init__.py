"""HTML pages to look results up in: each is one file, which needs no server and no network.

* `_packing`: packs the lists of a matrix compactly; the page unpacks them when they are shown.
* `_text`: packs the text, or the part of it with the highest scores.
* `_page`: `write_explorer`, a token's associations over training, from `track`.
* `_comparison`: `write_comparison`, the scores of language models, from `compare_revisions`.
* `_template`: fills `page.html` or `comparison.html` with `style.css`, scripts and data.

Scripts, in the order in which they are joined: `elements.js`, of both pages; `data.js` (tokens and
lists), `text.js` (occurrences in the text), `lists.js` (what is drawn), `passages.js` (the dialog),
`controls.js` (state, address, search); `comparison.js`, of the other page.
"""

from assocjax.explorer._comparison import comparison_page as comparison_page
from assocjax.explorer._comparison import write_comparison as write_comparison
from assocjax.explorer._page import explorer_page as explorer_page
from assocjax.explorer._page import write_explorer as write_explorer
from assocjax.explorer._template import write as write
