"""The policies by name, and how to make one from an experiment's `policy`, `policy_options` and `placement`.

Each policy has a file of its own in this folder. To add one, write its file and give it a row in `POLICIES`.
"""

from __future__ import annotations

import difflib
import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from testbed.errors import ConfigError
from testbed.placement.blocks import Partition
from testbed.placement.observation import Policy
from testbed.placement.policies.renamed import present_name
from testbed.placement.user_policy import load_class, on_one_line


class Listed(NamedTuple):
    """One row of the table of policies. A policy is imported when it is used."""

    place: str  # its file in this folder, and its class there
    description: str  # what `testbed policies` says
    all_to_all: bool = False  # whether it can place without a hub, where every device adds up for itself

    @property
    def factory(self) -> Callable[..., Policy]:
        """What makes the policy; called with the options of the experiment."""
        module, _, name = self.place.partition(":")
        factory: Callable[..., Policy] = getattr(import_module(f"{__name__}.{module}"), name)
        return factory


POLICIES: dict[str, Listed] = {
    "single": Listed(
        "single:Single",
        "the whole model on the one device where it is fastest; refused where none holds it",
        all_to_all=True,
    ),
    "static": Listed(
        "static:Static", "places once, as the experiment says or as the best of the others does, and never moves"
    ),
    "round-robin": Listed(
        "round_robin:RoundRobin",
        "deals the blocks to the devices in turn; moves only what no longer fits",
        all_to_all=True,
    ),
    "greedy": Listed(
        "greedy:Greedy",
        "each block, in token order, to the device that adds the least latency; again at each decision",
        all_to_all=True,
    ),
    "dynamic-threshold": Listed(
        "dynamic_threshold:DynamicThreshold",
        "moves blocks off devices over a memory or compute threshold, no others",
        all_to_all=True,
    ),
    "edgeshard": Listed(
        "edgeshard:EdgeShard", "whole layers by dynamic programming, the first one at the source (arXiv 2405.14371)"
    ),
    "layerwise": Listed(
        "layerwise:Layerwise", "the best that whole layers can do: migration and tokens of the interval at their least"
    ),
    "tensor-parallel": Listed(
        "tensor_parallel:TensorParallel",
        "every layer in equal parts on all devices (arXiv 1909.08053)",
        all_to_all=True,
    ),
    "galaxy": Listed(
        "galaxy:Galaxy",
        "every layer on all devices in proportion to what each can compute (arXiv 2405.17245)",
        all_to_all=True,
    ),
    "paper": Listed(
        "paper:Paper",
        "the paper's method as written: scores, and moves that pay or must (arXiv 2505.02533)",
        all_to_all=True,
    ),
    "paper-search": Listed(
        "paper_search:PaperSearch",
        "the paper's scores, and a local search of ours over what pays or must move",
        all_to_all=True,
    ),
    "headroom": Listed(
        "headroom:Headroom", "ours: compiled search over all that a placement can express, with a look at what is left"
    ),
    "exact": Listed(
        "exact:Exact", "the optimum of each decision, proved, or the best within `limit` and its gap; stars only"
    ),
}
ALL_TO_ALL = tuple(name for name, listed in POLICIES.items() if listed.all_to_all)
STATIC = "static"
NOT_OPTIONS = ("placement", "candidates")  # of `static`: the first is a key of the experiment itself
NOT_CANDIDATES = ("static", "exact")  # for `static` to ask: itself, and one that may take its whole limit


def make_policy(name: str, options: Mapping[str, Any], placement: Mapping[str, str] | None = None) -> Policy:
    """The policy called `name` with its options; `placement` is a fixed block pattern table, for `static` only.

    `name` may also be `path.py:Class`, a user's own. Raises ConfigError for unknown names and options.
    """
    factory = _factory(name)
    given: dict[str, Any] = {f"{key}_" if keyword.iskeyword(key) else key: value for key, value in options.items()}
    accepted = option_names(factory)
    if name == STATIC:
        given["placement"] = placement
        given["candidates"] = [row.factory for other, row in POLICIES.items() if other not in NOT_CANDIDATES]
    elif placement is not None:
        raise ConfigError(f"policy {name} chooses its own placement: drop `placement`, or use policy static")
    for key in options:
        if key not in accepted:
            known = f"it knows {', '.join(accepted)}" if accepted else "it takes none"
            raise ConfigError(f"policy {name} has no option {key!r}: {known}")
    try:
        policy = factory(**given)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        said = on_one_line(error)
        raise ConfigError(f"policy {name} cannot be made from its options {sorted(given)}: {said}") from error
    if not isinstance(getattr(policy, "name", None), str):
        raise ConfigError(f"policy {name} has no `name`: give the class one, a text for the run's tables")
    return policy


def refuse_exchange(name: str, partition: Partition, placement: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError for a policy that needs a hub while the partition has an all-to-all exchange."""
    if partition.hub or name in ALL_TO_ALL or name not in POLICIES or (name == "static" and placement is not None):
        return
    why = "asks policies that place" if name == "static" else "places"
    raise ConfigError(
        f"policy {name} {why} for partition.exchange: hub, and it is all-to-all: change that, or use one of "
        f"{', '.join(ALL_TO_ALL)}, or static with a placement"
    )


def refuse_cost(name: str, cost: str) -> None:
    """Raise ConfigError for a policy that knows the event schedule only, under another cost."""
    if cost == "paper" and name in POLICIES and getattr(POLICIES[name].factory, "schedule_only", False):
        raise ConfigError(
            f"policy {name} searches the event schedule only, and this experiment has cost: paper: use cost: schedule "
            "or another policy"
        )


def shared_out(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of several policies: each goes to those that have it. Raises ConfigError for one that none has."""
    accepted = {present_name(name): option_names(_factory(name)) for name in names}
    for key in options:
        if not any(key in known for known in accepted.values()):
            raise ConfigError(f"none of the policies {', '.join(names)} has an option {key!r}")
    return {name: {key: value for key, value in options.items() if key in known} for name, known in accepted.items()}


def option_names(factory: Callable[..., Policy]) -> list[str]:
    """The options of a policy as an experiment writes them: `class` where Python's keyword needs `class_`."""
    hidden = NOT_OPTIONS if factory is POLICIES[STATIC].factory else ()
    return [key.rstrip("_") for key in inspect.signature(factory).parameters if key not in hidden]


def _factory(name: str) -> Callable[..., Policy]:
    return load_class(name) if ".py:" in name else _known_policy(name)


def _known_policy(name: str) -> Callable[..., Policy]:
    name = present_name(name)
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        if all(part.strip() in POLICIES for part in name.split(",")):
            hint = "name one at a time, as in `testbed compare … --policy static --policy greedy`; "
        if name.endswith(".py"):
            hint = f"say which class of the file is meant, as in '{name}:Mine'; "
        known = f"known are {', '.join(POLICIES)}, or your own path.py:Class"
        raise ConfigError(f"there is no policy {name!r}: {hint}{known}")
    return POLICIES[name].factory
