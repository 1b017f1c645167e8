"""The plan: from YAML to one typed model. Nothing heavy is imported here, because every start of the workflow does.

reading.py   YAML files, and a user's values laid over them and tagged
evidence.py  a value with its evidence
optimizer.py an entry under `optimizers`
settings.py  the base class of every paper's settings
sweeps.py    a value given as several becomes a run for each
model.py     Plan, Paper, Experiment, Figure, Claim
checking.py  what is wrong with a value, said in one line
jobs.py      what one job gets of the plan
schema.py    JSON schemas for editors
"""
