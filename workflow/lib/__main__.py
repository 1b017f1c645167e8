"""`python -m workflow.lib <stage>`."""

import gc

# Most of what a stage makes, modules above all, lives to its end: looking for cycles after every 700 new objects costs
# a drawing an eighth of its time.
gc.set_threshold(50_000, 10, 10)

from workflow.lib.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
