"""The race: every optimizer on every problem of `config/race.yaml`, tuned on one set of seeds and judged on another.

Not part of the default run. `running` makes the runs of one rule on one problem, `standings` the table of all of them,
`figures` the pictures, and `board` the page of the documentation.
"""
