"""The sections of an experiment: the prompt, how tokens are drawn, and what becomes of a run that loses a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from testbed.errors import ConfigError
from testbed.units import parse_duration
from testbed.words.chat import Message
from testbed.words.sampling import Sampling


class Strict(BaseModel):
    """A section that never changes and refuses unknown keys and values of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


def typed(parse: Callable[[object], float]) -> BeforeValidator:
    """Lets a number also be written as a text with a unit, like `500 ms`, which `parse` turns into SI units."""

    def read(value: object) -> object:
        try:
            return parse(value) if isinstance(value, str) else value
        except ConfigError as error:
            raise ValueError(error) from error  # so that the key and the file are named

    return BeforeValidator(read)


class MessageSpec(Strict):
    """One message of a conversation."""

    role: str = Field(min_length=1, max_length=100)
    content: str


class PromptSpec(Strict):
    """The prompt: a text, a conversation that the model's chat template turns into text, or token ids."""

    text: str | None = Field(default=None, min_length=1)
    chat: tuple[MessageSpec, ...] | None = Field(default=None, min_length=1, strict=False)
    ids: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, strict=False)

    @model_validator(mode="after")
    def _check(self) -> PromptSpec:
        if sum(given is not None for given in (self.text, self.chat, self.ids)) != 1:
            raise ValueError("give either text, file, chat or ids, one of the four")
        if self.ids == ():
            raise ValueError("ids is empty, but a prompt needs at least one token")
        return self

    @property
    def words(self) -> str | tuple[Message, ...]:
        """The text, or the messages of the conversation; not for a prompt that is given as ids."""
        if self.chat is None:
            return self.text or ""
        return tuple(Message(message.role, message.content) for message in self.chat)

    @property
    def plain(self) -> bytes:
        """The bytes of the text, or of the messages one under the other: the prompt of a model without a tokenizer."""
        return (self.text or "\n".join(message.content for message in self.chat or ())).encode()


class SamplingSpec(Strict):
    """How tokens are drawn, seeded by the experiment's `seed`."""

    temperature: float = Field(default=1.0, ge=0.01, le=100.0, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)

    def seeded(self, seed: int) -> Sampling:
        """The same with the seed of a run."""
        return Sampling(seed, self.temperature, self.top_k, self.top_p)


class RecoverySpec(Strict):
    """What a run does when a device is lost: it fails, or goes on without it and recomputes the lost KV caches."""

    on_exit: Literal["recompute", "fail"] = "recompute"  # the worker has ended for whatever reason but memory
    on_oom: Literal["recompute", "fail"] = "fail"  # the kernel has killed it because its memory ran out
    method: Literal["recompute", "replicate", "auto"] = "recompute"  # whether replicas of KV caches are kept
    # Seconds without a sign of life until a device is lost. None: 10 s of the host, but never for a trace's pause.
    suspect_after: Annotated[float | None, typed(parse_duration)] = Field(default=None, ge=1.0, le=1e6)
