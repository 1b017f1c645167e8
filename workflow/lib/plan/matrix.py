"""Which rule runs on which kind of experiment, and how: what the rooms say while planning, as one table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from workflow.lib import optim
from workflow.lib.errors import UserError
from workflow.lib.plan.model import Experiment, Paper
from workflow.lib.plan.optimizer import Optimizer

# Rules from elsewhere that stand for their kind: entrywise, and evaluating the loss again within a step.
ELSEWHERE = ("torch.optim.RMSprop", "torch.optim.AdamW", "torch.optim.LBFGS")


def markdown(papers: Iterable[Paper], rules: Iterable[str] = (*optim.names(), *ELSEWHERE)) -> str:
    """The table: a row for each rule, a column for the first experiment of each kind of each paper."""
    kinds: dict[str, Experiment] = {}
    for paper in papers:
        for experiment in paper.experiments.values():
            kinds.setdefault(f"{paper.name} {experiment.kind}", experiment)
    rows = [["rule", *kinds], ["---"] * (len(kinds) + 1)]
    rows += [[f"`{rule}`", *(route(experiment, rule) for experiment in kinds.values())] for rule in rules]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def route(experiment: Experiment, rule: str) -> str:
    """`fast`, `plain`, or `refused` with the reason, for a rule with its defaults."""
    try:
        return experiment.settings.route(example(experiment, rule))
    except UserError as error:
        return f"refused: {error}"


def example(experiment: Experiment, rule: str, **hyperparameters: Any) -> Optimizer:
    """An entry of a rule for an experiment, with the room's options of the experiment's first optimizer.

    Hyper-parameters without a default are 0.1, or the first of a choice.
    """
    fields = optim.hyperparameters(rule).model_fields
    values = {key: field.default for key, field in fields.items()}
    values |= {key: (get_args(field.annotation) or [0.1])[0] for key, field in fields.items() if field.is_required()}
    first = next(iter(experiment.optimizers.values()))
    return Optimizer(
        label="example", rule=rule, given={}, hyperparameters={**values, **hyperparameters}, options=first.options
    )
