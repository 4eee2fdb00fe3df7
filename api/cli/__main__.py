"""`python -m api.cli` is `modelferry`."""

from api.cli.program import main

if __name__ == "__main__":
    main()
