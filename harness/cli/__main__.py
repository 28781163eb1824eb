"""`python -m harness.cli`, the same as `harness`."""

from harness.cli.entry import main

if __name__ == "__main__":
    main()
