"""Kinds of option values that several verbs take."""

from __future__ import annotations

import re
from typing import Any

import click

from testbed.errors import ConfigError
from testbed.units import parse_duration


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic only in new versions of click
    """Seconds from a typed duration like `500 ms`, or from a bare number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fail as a wrong option does, which names it."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(f"{value} s" if re.fullmatch(r"[\d.]+", value.strip()) else value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)
