"""`paper-search`: the scores of arXiv 2505.02533, and a local search of ours over what pays or must move.

Source: Kafetzis, Khalili, Koutsopoulos, *Large Language Model Partitioning for Low-Latency Inference at the
Edge*, arXiv 2505.02533. `paper` is its method alone, and lists what the paper leaves open. This policy has the same
order, scores (`score: max`), backtracking and overload resolution. It differs in this:

- *Memory* is kept free for caches that grow to the run's end, as far as that fits.
- *Dead ends*: if backtracking finds no device for a block, the memory is packed anew, exactly.
- *Later decisions* score nothing. Blocks leave a device that can no longer hold them at the least cost. Then a block
  moves wherever that lowers the predicted migration + inference delay over the interval. Predicted costs are those of a
  whole token, so groups that only pay together (a layer, its attention half, all its heads on one device, an exchange
  of two layers) are tried as one move.
- *The first decision* tries the same moves at a migration delay of zero, because nothing is loaded yet; otherwise the
  second decision would have to pay for them. `refine_first: false` keeps the placement that the scores give.
- *Equal scores*: the device with the lower index.
"""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import refuse_shortages
from testbed.placement.local.decision import change_draft, decide_on_draft
from testbed.placement.local.draft import Draft
from testbed.placement.local.forward_checking import ForwardChecking
from testbed.placement.local.improve import improve
from testbed.placement.local.repair import repair
from testbed.placement.observation import Observation
from testbed.placement.policies.paper import Scores, default_deadline
from testbed.placement.policy_options import boolean_option, deadline_option


class PaperSearch:
    """The paper's scores with our search; `deadline` is a duration (`500 ms`) or seconds, None for the default."""

    name = "paper-search"
    improves_drafts = True

    def __init__(self, deadline: object = None, refine_first: bool = True) -> None:
        self._refine_first = boolean_option(self.name, "refine_first", refine_first)
        self._deadline_s = deadline_option(self.name, deadline)

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place by scores, or move the blocks that must move and those for which it pays."""
        change = self._place if placement is None else self._move
        return decide_on_draft(observation, placement, change, self.name)

    def place(self, observation: Observation) -> Placement:
        """A first placement that may use all devices of the observation; raises Infeasible."""
        return refuse_shortages(observation, None, change_draft(observation, None, self._place), self.name)

    def _place(self, draft: Draft) -> None:
        if Scores(draft, self._deadline_s or default_deadline(draft.model)).place_all() is not None:
            draft.clear()
            checking = ForwardChecking(draft, self.name)
            for slot in range(len(draft.blocks)):
                checking.assign(slot, next(device for device in draft.devices if checking.allows(slot, device)))
            draft.refresh()
        if self._refine_first:
            improve(draft)

    def _move(self, draft: Draft) -> None:
        repair(draft, self.name)
        improve(draft)
