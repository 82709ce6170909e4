"""`python -m assocjax.cli`."""

from assocjax.cli import main

main()
