"""`python -m workflow.lib <stage>`."""

from workflow.lib.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
