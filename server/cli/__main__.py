"""``python -m server.cli``: the `tandem` command where its script is not on the path."""

from server.cli.app import main

if __name__ == "__main__":
    main()
