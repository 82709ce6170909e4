"""One HTML file that shows a token's associations over training; needs no server and no network.

* `_packing`: packs the lists of a matrix compactly; the page unpacks them when they are shown.
* `_page`: `write_explorer`, which fills in `page.html` with `style.css`, `script.js` and the data.
"""

from assocjax.explorer._page import write_explorer as write_explorer
