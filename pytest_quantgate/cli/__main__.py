"""`python -m pytest_quantgate.cli` is `quantgate`."""

from pytest_quantgate.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
