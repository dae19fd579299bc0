"""Reading a duration that is an option of a policy."""

from __future__ import annotations

from testbed.errors import ConfigError
from testbed.units import parse_duration


def duration_option(policy: str, key: str, value: object) -> float | None:
    """Seconds from `500 ms` or a bare number of seconds; None stays None. ConfigError names policy and option."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return parse_duration(f"{value} s" if number else value)
    except ConfigError as error:
        raise ConfigError(f"policy {policy}: {key}: {error}") from error
