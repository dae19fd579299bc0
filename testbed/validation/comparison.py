"""Puts each prediction beside the published value, and says whether it is scored and why.

Rows of a single board that tell a time calibrate; they are never scored. Everything else is predicted from them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.validation.assumptions import DEFAULT, Assumptions
from testbed.validation.calibration import Calibration, Observed, calibrate
from testbed.validation.engines import layer_weights
from testbed.validation.names import (
    read_boards,
    read_context,
    read_formats,
    read_link,
    read_model,
    read_program,
    read_threads,
)
from testbed.validation.prediction import (
    Configuration,
    Prediction,
    counted_bytes,
    fits,
    naive_seconds,
    payload_bytes,
    predict,
)
from testbed.validation.table import BUNDLED, Kind, Measurement, Row, measurements, read_table

TIMES: tuple[Kind, ...] = ("token", "compute", "network")
BYTES: tuple[Kind, ...] = ("sent", "received", "transfer")
MOST_SCORED = 4  # boards of a token time that is scored
TOKENS = "token time"
_SCORES: Mapping[Kind, str] = {
    "compute": "computing", "token": TOKENS, "fits": "feasibility", "sent": "bytes", "received": "bytes",
    "transfer": "bytes",
}  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """A measurement with its prediction, in the unit of the table."""

    measurement: Measurement
    config: Configuration | None
    calibration: bool
    predicted: float | bool | None
    prediction: Prediction | None
    naive: float | None
    fits: bool | None
    scored: str | None  # one of the four scores
    reason: str | None  # why it is not predicted, or not scored

    @property
    def error(self) -> float | None:
        """(predicted - value) / value; None where there is no prediction, or no number."""
        return _relative(self.predicted, self.measurement.value)

    @property
    def time_error(self) -> float | None:
        """The error of the token's time, also where the table has tokens per second."""
        return _relative(_seconds(self.measurement, self.predicted), self.measurement.seconds)

    @property
    def naive_error(self) -> float | None:
        """The naive prediction's error of the token's time."""
        return _relative(_seconds(self.measurement, self.naive), self.measurement.seconds)

    def row(self) -> dict[str, Any]:
        """The row for JSON."""
        row, config, found = self.measurement.row, self.config, self.prediction
        return {
            "line": row.line, "source": row.source, "model": row.model, "devices": row.devices, "link": row.link,
            "metric": self.measurement.metric, "unit": row.unit, "value": self.measurement.value,
            "predicted": self.predicted, "error": self.error, "reason": self.reason, "calibration": self.calibration,
            "scored": self.scored, "engine": None if config is None else config.engine.name,
            "boards": None if config is None else len(config.boards), "fits": self.fits,
            "computing_ms": None if found is None else found.compute_s * 1e3,
            "wire_ms": None if found is None else found.wire_s * 1e3,
            "software_ms": None if found is None else found.software_s * 1e3,
            "naive": self.naive, "naive_error": _relative(self.naive, self.measurement.value),
            "provenance": None if found is None or config is None else {
                "rate": found.rates[0].provenance, "rate_from": found.rates[0].story,
                "network": config.wire.provenance if config.wire and len(config.boards) > 1 else None,
            },
        }  # fmt: skip


def _relative(predicted: float | bool | None, value: float | bool | None) -> float | None:
    if predicted is None or value is None or isinstance(predicted, bool) or isinstance(value, bool) or value == 0:
        return None
    return (predicted - value) / value


def _seconds(measurement: Measurement, value: float | bool | None) -> float | None:
    """A value in the unit of a time or of tokens per second, in seconds."""
    if value is None or isinstance(value, bool) or measurement.kind not in TIMES:
        return None
    if measurement.is_rate:
        return 1 / (value * measurement.size) if value > 0 else None
    return value * measurement.size


def configuration(measurement: Measurement, assumptions: Assumptions = DEFAULT) -> Configuration | str:
    """What ran, or one sentence that says what of it cannot be read."""
    row = measurement.row
    shape = read_model(row.model)
    if shape is None:
        return f"the model {row.model or 'of the row'} is none whose dimensions are known here"
    boards = read_boards(row.devices)
    if not boards:
        return f"devices is {row.devices or 'empty'}, which says no number of boards"
    program = read_program(row.notes, row.quant_bits, row.source, row.where, row.link)
    if program is None:
        return "the row names no engine"
    formats = read_formats(row.quant_bits)
    if formats is None:
        return f"quant_bits is {row.quant_bits or 'empty'}, which says no format of weights that is known here"
    threads = measurement.threads or read_threads(row.devices, row.notes)
    context = read_context(row.notes, row.metric)
    context = assumptions.context if context is None else context
    return Configuration(
        program, shape, formats, boards, read_link(row.link, assumptions), threads, context, assumptions
    )


def calibrates(measurement: Measurement) -> bool:
    """Whether a measurement is of a single board and tells a time, so that it calibrates and is never scored."""
    return len(read_boards(measurement.row.devices)) == 1 and measurement.kind in (*TIMES, "prompt", "streaming")


def observations(rows: Iterable[Measurement], assumptions: Assumptions = DEFAULT) -> list[Observed]:
    """What calibrates, of the measurements marked as calibration; all others are passed over.

    Where a row bills computing apart from transfer, the computing counts and not the sum.
    """
    marked = [one for one in rows if calibrates(one)]
    billed = {
        (one.row.source, one.row.model, one.row.devices, one.row.notes) for one in marked if one.kind == "compute"
    }
    found = []
    for one in marked:
        row = one.row
        if one.kind == "token" and (row.source, row.model, row.devices, row.notes) in billed:
            continue
        config, value = configuration(one, assumptions), one.value
        if isinstance(config, str) or config.boards[0] is None or value is None or isinstance(value, bool):
            continue
        if one.kind == "prompt" and one.is_rate and value > 0:
            weights = config.shape.layers * layer_weights(config.shape)
            found.append(_observed(one, config, 1 / value, (0.0, 0.0), 2 * weights))
        elif one.kind in ("token", "compute") and (seconds := one.seconds) is not None and seconds > 0:
            found.append(_observed(one, config, seconds, counted_bytes(config), 0.0))
    return found


def _observed(
    one: Measurement, config: Configuration, seconds: float, sizes: tuple[float, float], flops: float
) -> Observed:
    board = config.boards[0]
    assert board is not None
    return Observed(
        one.row.line, board, config.kernel, config.engine, config.shape, seconds, *sizes, one.kind == "prompt", flops
    )


def compare(
    rows: Sequence[Row], also: Sequence[Row] = (), assumptions: Assumptions = DEFAULT
) -> tuple[list[Compared], Calibration]:
    """Each value of `rows` with its prediction; the single-board rows of both lists calibrate."""
    every = [one for row in rows for one in measurements(row)]
    known = {_text(one.row) for one in every}
    more = [one for row in also if _text(row) not in known for one in measurements(row)]
    calibration = calibrate(observations([*more, *every], assumptions), assumptions)
    return [_compared(one, calibration, assumptions) for one in every], calibration


def validate(table: str | Path | None = None, assumptions: Assumptions = DEFAULT) -> tuple[list[Compared], Calibration]:
    """Predict every row of a table, by default the bundled one, whose single-board rows always calibrate.

    Raises ConfigError if the file is no such table. A row that cannot be read is in the answer, with the reason.
    """
    bundled = read_table(BUNDLED)
    if table is None:
        return compare(bundled, assumptions=assumptions)
    return compare(read_table(table), bundled, assumptions)


def _text(row: Row) -> tuple[str, ...]:
    return row.source, row.model, row.quant_bits, row.devices, row.metric, row.value, row.notes


def _compared(one: Measurement, calibration: Calibration, assumptions: Assumptions) -> Compared:
    single = calibrates(one)
    config = configuration(one, assumptions)
    if isinstance(config, str):
        return Compared(one, None, single, None, None, None, None, None, config)
    room = fits(config)
    if one.value is None:
        unread = f"the value {one.row.value or 'of the row'} is no number that can be meant"
        return Compared(one, config, single, None, None, None, room, None, unread)
    found = predict(config, calibration) if one.kind in (*TIMES, "streaming", "prompt") else None
    predicted, reason = _value(one, config, found, room)
    score = None if single or reason is not None else _SCORES.get(one.kind)
    if reason is None and score is None:
        reason = "a single board: it calibrates" if single else _why_unscored(one)
    if score == TOKENS and len(config.boards) > MOST_SCORED:
        score, reason = None, f"token times are scored up to {MOST_SCORED} boards"
    naive = None
    if one.kind in ("token", "compute") and (seconds := naive_seconds(config, calibration)) is not None:
        naive = _in_unit(one, seconds)
    prediction = found if isinstance(found, Prediction) else None
    return Compared(one, config, single, predicted, prediction, naive, room, score, reason)


def _why_unscored(one: Measurement) -> str:
    if one.kind == "network":
        return "transfer is shown as a ratio: no single-board row tells what a message costs"
    return "derived by the source from values that are rows of their own"


def _in_unit(one: Measurement, seconds: float) -> float:
    return 1 / seconds / one.size if one.is_rate else seconds / one.size


def _value(
    one: Measurement, config: Configuration, found: Prediction | str | None, room: bool | None
) -> tuple[float | bool | None, str | None]:
    """(the predicted value in the unit of the table, why there is none)."""
    if one.kind == "fits":
        return (room, None) if room is not None else (None, "the memory of a board is not known")
    if one.kind in BYTES:
        if len(config.boards) > 1 and not config.engine.distributed:
            return None, f"{config.program} on {len(config.boards)} devices: no list of its exchanges is known"
        sent, received = payload_bytes(config)
        return {"sent": sent, "received": received, "transfer": sent + received}[one.kind] / one.size, None
    if isinstance(found, str):
        return None, found
    if found is None:
        return None, f"{one.row.metric or 'the metric'} in {one.row.unit or 'no unit'} is nothing that is predicted"
    if one.kind == "prompt":
        return None, "the time of a prompt is not predicted: such rows give compute rates"
    if one.kind == "streaming":
        shape = config.shape
        held = (shape.layers * layer_weights(shape) + shape.vocab * shape.width) * config.formats.bits / 8
        return held / len(config.boards) / found.compute_s / one.size, None
    seconds = {"token": found.token_s, "compute": found.compute_s, "network": found.network_s}[one.kind]
    if one.kind == "network" and len(config.boards) == 1:
        return 0.0, None
    return _in_unit(one, seconds), None
