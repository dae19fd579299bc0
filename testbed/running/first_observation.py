"""What the policy is shown before token 0, known without starting anything."""

from __future__ import annotations

from testbed.controller.calibration import HostCalibration, host_calibration
from testbed.controller.conditions import Conditions, observe
from testbed.experiment.schema import Experiment
from testbed.placement.observation import Observation


def first_observation(experiment: Experiment, prompt_tokens: int, host: HostCalibration | None = None) -> Observation:
    """Return the topology with the values that the traces give it at time 0.

    `host` is what is known of this host; by default, what its calibration file says.
    """
    conditions = Conditions(experiment)
    conditions.begin()
    hop_s = (host or host_calibration()).hop_overhead_s / experiment.dilation
    return observe(experiment, conditions, prompt_tokens, 0, hop_s)
