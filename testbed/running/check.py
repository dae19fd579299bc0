"""Everything that can be known to be wrong with an experiment before anything starts."""

from __future__ import annotations

from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment


class NothingFits(ConfigError):
    """No placement of any policy can fit this experiment."""


def check_experiment(experiment: Experiment, computed: bool = True) -> list[int]:
    """Check an experiment and return the token ids of its prompt.

    `computed` says that the model's arithmetic will be done: then its weights and its tokeniser must be there. A dry
    run or a simulation needs neither. Raises NothingFits if the devices are too small for every policy, and ConfigError
    for anything else that is wrong.
    """
    from testbed.experiment.prompt import prompt_ids
    from testbed.placement.cost.memory import nothing_fits
    from testbed.placement.patterns import expand_patterns
    from testbed.placement.policies import make_policy, refuse_cost, refuse_exchange
    from testbed.running.first_observation import first_observation
    from testbed.running.memory_over_time import why_last_token_never_fits

    make_policy(experiment.policy, experiment.policy_options, experiment.placement)
    refuse_exchange(experiment.policy, experiment.partition, experiment.placement)
    refuse_cost(experiment.policy, experiment.cost)
    if computed:
        refuse_without_weights(experiment)
    prompt = prompt_ids(experiment, computed)
    observation = first_observation(experiment, len(prompt))
    if experiment.placement is not None:
        expand_patterns(observation, experiment.placement)
    why = nothing_fits(observation)
    if why:
        raise NothingFits(f"{experiment.name}: no placement can fit: {why}")
    why = why_last_token_never_fits(experiment, len(prompt))
    if why:
        raise NothingFits(f"{experiment.name}: no placement can last to the last token: {why}")
    return prompt


def refuse_without_weights(experiment: Experiment) -> None:
    """Raise ConfigError for a checkpoint that has no weights, or weights that are no numbers.

    Raises EnvironmentLacks for a preset whose weights are in a package that is not installed.
    """
    from testbed.decoder.checkpoint import require_model
    from testbed.decoder.scan import refuse_non_numbers

    files = experiment.model.required_files()
    if files is not None:
        refuse_non_numbers(require_model(files))
