"""`python -m gateway.cli` is `callgate`."""

from gateway.cli.main import main

if __name__ == "__main__":
    main(prog_name="callgate")
