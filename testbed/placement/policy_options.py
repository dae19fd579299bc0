"""Reading what an experiment gives a policy under `policy_options`."""

from __future__ import annotations

from testbed.errors import ConfigError
from testbed.strict_yaml import shown
from testbed.units import parse_duration


def duration_option(policy: str, key: str, value: object) -> float | None:
    """Seconds from `500 ms` or from a bare number of seconds; None stays None.

    Raises ConfigError that names the policy and the option.
    """
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return parse_duration(f"{value} s" if number else value)
    except ConfigError as error:
        raise ConfigError(f"policy {policy}: {key}: {error}") from error


def deadline_option(policy: str, value: object) -> float | None:
    """Seconds of the option `deadline`, which must be longer than 0 s; None stays None. Raises ConfigError."""
    seconds = duration_option(policy, "deadline", value)
    if seconds == 0:
        raise ConfigError(f"policy {policy}: deadline must be longer than 0 s, like '500 ms'")
    return seconds


def boolean_option(policy: str, key: str, value: object) -> bool:
    """The value of an option that is true or false. Raises ConfigError that names the policy and the option."""
    if not isinstance(value, bool):
        raise ConfigError(f"policy {policy}: {key} is {shown(value)}, but it must be true or false")
    return value


def share_option(policy: str, key: str, value: object) -> float:
    """The value of an option that is a share from 0 to under 1. Raises ConfigError that names policy and option."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(
            f"policy {policy}: {key} is {shown(value)}, but it must be a share from 0 to under 1, like 0.2"
        )
    return float(value)
