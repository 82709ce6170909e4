"""`python -m assocjax.cli`."""

from assocjax.cli import main

if __name__ == "__main__":
    main()
