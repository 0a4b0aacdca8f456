"""`python -m chunkstore`: the command line, for where the script is not on the PATH."""

from chunkstore.cli import main

if __name__ == "__main__":
    main()
