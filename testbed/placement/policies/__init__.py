"""The policies by name, and how to make one from an experiment's `policy`, `policy_options` and `placement`."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import keyword
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.placement.blocks import Partition
from testbed.placement.observation import Policy
from testbed.placement.policies.dynamic_threshold import DynamicThreshold
from testbed.placement.policies.edgeshard import EdgeShard
from testbed.placement.policies.exact import Exact
from testbed.placement.policies.galaxy import Galaxy
from testbed.placement.policies.greedy import Greedy
from testbed.placement.policies.headroom import Headroom
from testbed.placement.policies.layerwise import Layerwise
from testbed.placement.policies.resource_aware import ResourceAware
from testbed.placement.policies.round_robin import RoundRobin
from testbed.placement.policies.single import Single
from testbed.placement.policies.static import Static
from testbed.placement.policies.tensor_parallel import TensorParallel

POLICIES: dict[str, tuple[Callable[..., Policy], str]] = {
    "single": (Single, "the whole model on the one device where it is fastest; refused where none holds it"),
    "static": (Static, "places once, as the experiment says or as the best of the others does, and never moves"),
    "round-robin": (RoundRobin, "deals the blocks to the devices in turn; moves only what no longer fits"),
    "greedy": (Greedy, "each block, in token order, to the device that adds the least latency; again at each decision"),
    "dynamic-threshold": (DynamicThreshold, "moves blocks off devices over a memory or compute threshold, no others"),
    "edgeshard": (EdgeShard, "whole layers by dynamic programming, the first one at the source (arXiv 2405.14371)"),
    "layerwise": (Layerwise, "the best that whole layers can do: migration and tokens of the interval at their least"),
    "tensor-parallel": (TensorParallel, "every layer in equal parts on all devices (arXiv 1909.08053)"),
    "galaxy": (Galaxy, "every layer on all devices in proportion to what each can compute (arXiv 2405.17245)"),
    "resource-aware": (ResourceAware, "the paper's: scores against residual capacity, moves what pays or must"),
    "headroom": (Headroom, "ours: compiled search over all that a placement can express, with a look at what is left"),
    "exact": (Exact, "the optimum of each decision, proved, or the best within `limit` and its gap; stars only"),
}

# The policies that can place for an all-to-all exchange: those that do not depend on where results meet.
ALL_TO_ALL = (
    "single", "round-robin", "greedy", "dynamic-threshold", "tensor-parallel", "galaxy", "resource-aware",
)  # fmt: skip


def make_policy(name: str, options: Mapping[str, Any], placement: Mapping[str, str] | None = None) -> Policy:
    """The policy called `name` with its options; `placement` is a fixed block pattern table, for `static` only.

    `name` may also be `path.py:Class`, a user's own. Raises ConfigError for unknown names and options.
    """
    factory = _factory(name)
    given = {f"{key}_" if keyword.iskeyword(key) else key: value for key, value in options.items()}
    if placement is not None:
        if factory is not Static:
            raise ConfigError(f"policy {name} chooses its own placement: drop `placement`, or use policy static")
        given["placement"] = placement
    accepted = option_names(factory)
    for key in options:
        if key not in accepted:
            known = f"it knows {', '.join(accepted)}" if accepted else "it takes none"
            raise ConfigError(f"policy {name} has no option {key!r}: {known}")
    try:
        policy = factory(**given)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"policy {name} cannot be made from its options {sorted(given)}: {_said(error)}") from error
    if not isinstance(getattr(policy, "name", None), str):
        raise ConfigError(f"policy {name} has no `name`: give the class one, a text for the run's tables")
    return policy


def refuse_exchange(name: str, partition: Partition, placement: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError for a policy that thinks in hubs while the partition has an all-to-all exchange."""
    if partition.hub or name in ALL_TO_ALL or name not in POLICIES or (name == "static" and placement is not None):
        return
    why = "asks policies that place" if name == "static" else "places"
    raise ConfigError(
        f"policy {name} {why} for partition.exchange: hub, and it is all-to-all: change that, or use one of "
        f"{', '.join(ALL_TO_ALL)}, or static with a placement"
    )


def shared_out(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of several policies: each goes to those that have it. Raises ConfigError for one that none has."""
    accepted = {name: option_names(_factory(name)) for name in names}
    for key in options:
        if not any(key in known for known in accepted.values()):
            raise ConfigError(f"none of the policies {', '.join(names)} has an option {key!r}")
    return {name: {key: value for key, value in options.items() if key in accepted[name]} for name in names}


def _factory(name: str) -> Callable[..., Policy]:
    return _user_policy(name) if ".py:" in name else _known_policy(name)


def option_names(factory: Callable[..., Policy]) -> list[str]:
    """The options of a policy as an experiment writes them: `class` where Python's keyword needs `class_`."""
    return [key.rstrip("_") for key in inspect.signature(factory).parameters if key != "placement"]


def _known_policy(name: str) -> Callable[..., Policy]:
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = f"known are {', '.join(POLICIES)}, or your own path.py:Class"
        raise ConfigError(f"there is no policy {name!r}: {hint}{known}")
    return POLICIES[name][0]


def _user_policy(name: str) -> Callable[..., Policy]:
    path, _, class_name = name.rpartition(":")
    file = Path(path)
    spec = importlib.util.spec_from_file_location(f"policy file {file.resolve()}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"policy file {path} does not exist: write policy: path.py:Class")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for what a class's annotations mean
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises is the user's to hear
        del sys.modules[spec.name]
        raise ConfigError(f"policy file {path} cannot be loaded: {_said(error, True)}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not all(callable(getattr(found, method, None)) for method in ("decide", "reset")):
        raise ConfigError(f"policy file {path} has no class {class_name!r} with methods reset and decide")
    return found


def _said(error: BaseException, kind: bool = False) -> str:
    """What a user's code raised, on one line; a TypeError needs no `kind` where it is about the options given."""
    words = " ".join(str(error).split())
    return words if words and isinstance(error, TypeError) and not kind else f"{type(error).__name__}: {words}"
