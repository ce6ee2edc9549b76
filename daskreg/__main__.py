"""`python -m daskreg`: the command line, for where the program is not on the path, or another Python's is."""

from daskreg.cli import main

if __name__ == "__main__":
    main()
