"""`python -m loadlib` is `loadlib`."""

from loadlib.cli import main

if __name__ == "__main__":
    main()
