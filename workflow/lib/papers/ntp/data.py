"""The data of one seed."""

from __future__ import annotations

from workflow.lib.errors import UserError
from workflow.lib.files import Arrays
from workflow.lib.papers.ntp import language
from workflow.lib.papers.ntp.settings import RandomSentences, Strings
from workflow.lib.plan.model import Experiment
from workflow.lib.streams import Seed


def generate(experiment: Experiment[RandomSentences | Strings], seed: Seed) -> Arrays:
    """Make a realizable data set and check Assumptions 1 and 3 on it.

    Returns:
        The arrays of `language.DataSet`: collocation (V,), sentences (N, L), next_token (N,).

    Raises:
        UserError: the settings ask for data that are not realizable.
    """
    settings = experiment.settings
    if isinstance(settings, Strings):
        data, _ = language.from_strings(settings.strings)
    else:
        data = language.random_sentences(
            settings.vocabulary_size, settings.sentences, settings.lengths, seed.generator("data")
        )
    broken = language.violations(data)
    if broken:
        raise UserError(f"{experiment.paper}.experiments.{experiment.name}: the data are not realizable: {broken[0]}")
    return data.arrays()
