"""What the cost model predicts for the next token, and the bytes that a pass puts on the wire."""

from __future__ import annotations

from dataclasses import replace

from testbed.controller.calibration import HostCalibration
from testbed.controller.event_loop import EventLoop
from testbed.controller.run_state import RunState
from testbed.experiment.schema import Experiment
from testbed.placement.cost.copying import while_copying
from testbed.placement.cost.forecast import Forecast, forecast_of
from testbed.placement.cost.model import prefill_latency
from testbed.placement.plan import plan_wire_bytes


class TokenForecast:
    """The predictions of one run. `measured_hop_s` is the software's time per hop as measured before token 0."""

    def __init__(
        self, experiment: Experiment, prompt_tokens: int, state: RunState, loop: EventLoop, host: HostCalibration
    ) -> None:
        self._experiment, self._prompt_tokens = experiment, prompt_tokens
        self._state, self._loop, self._host = state, loop, host
        self.measured_hop_s: float | None = None
        self._forecast: Forecast | None = None
        # The boundary, the number of changed conditions, the epoch, and whether blocks are copied meanwhile.
        self._forecast_for = (0, 0, 0, False)
        self._wire: dict[tuple[int, int], float] = {}  # (epoch, rows) -> bytes

    def seconds(self) -> float:
        """The latency that the cost model predicts for the next token under the present conditions.

        The software's time per hop is the calibrated host's. For a host without a calibration file it is what was
        measured before token 0.
        """
        experiment, state = self._experiment, self._state
        _, plan = state.placed()
        known = (state.boundary, self._loop.traces.changes(), plan.epoch, bool(state.copying))
        if self._forecast is None or self._forecast_for != known:
            observation = while_copying(self._loop.observation(), state.copying)
            if not self._host.measured and self.measured_hop_s is not None:
                observation = replace(observation, hop_overhead_s=self.measured_hop_s)
            if not state.tokens_done:
                return prefill_latency(observation, plan, experiment.prefill_chunk)
            last = self._prompt_tokens + min(state.boundary * experiment.interval, experiment.tokens)
            self._forecast, self._forecast_for = forecast_of(observation, plan, last - 1), known
        return self._forecast.seconds(self._prompt_tokens + state.tokens_done)

    def wire_bytes(self, rows: int) -> float:
        """Bytes on all links of a forward pass with so many rows."""
        _, plan = self._state.placed()
        known = plan.epoch, rows
        if known not in self._wire:
            self._wire[known] = plan_wire_bytes(self._experiment.shape, plan, rows, self._experiment.partition)
        return self._wire[known]
