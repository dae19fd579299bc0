"""Chat templates: a conversation becomes the text that its model was trained to answer.

A template is a program in Jinja that comes with the model, so it is not trusted. It runs in Jinja's sandbox, in a
process of its own that has no environment, little memory and little time.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import ConfigError

_PROCESS = Path(__file__).with_name("template_process.py")
CPU_S = 5  # for rendering
_PATIENCE_S = 9.0  # from start to end; on a busy host the process gets its CPU time later
MEMORY_BYTES = 256 * 2**20  # over what the process has when it begins to render
MOST_CHARACTERS = 4 * 2**20  # of a rendered prompt; ten times what the longest contexts hold


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str  # such as system, user or assistant
    content: str


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template, the file that has it, and the texts of the special tokens that it may name."""

    text: str
    origin: str
    marks: Mapping[str, str]  # such as bos_token -> <s>

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation, up to where the answer begins; raises ConfigError naming the file.

        Whatever the template does, this takes at most 10 s and 500 MB.
        """
        asked = {
            "template": self.text,
            "variables": dict(self.marks) | {"messages": [vars(message) for message in messages]},
            "path": sys.path,
            "cpu_s": CPU_S,
            "memory_bytes": MEMORY_BYTES,
            "most_characters": MOST_CHARACTERS,
        }
        answer = self._ask(json.dumps(asked).encode())
        if "error" in answer:
            raise self._refused(answer["error"])
        return answer["text"]

    def _ask(self, asked: bytes) -> dict[str, str]:
        """What the process answers."""
        # Without `site` the process is up in half the time; the path that it is told has what `site` would add.
        command = [sys.executable, "-I", "-S", "-B", str(_PROCESS)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/"
        )
        try:
            answer, _ = process.communicate(asked, _PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise self._refused(f"takes longer than {_PATIENCE_S:.0f} s") from None
        finally:
            process.kill()
            process.wait()
        if process.returncode == -signal.SIGXCPU:
            raise self._refused(f"takes longer than {CPU_S} s")
        try:
            found: dict[str, str] = json.loads(answer)
        except ValueError:
            raise self._refused(f"ends the process that renders it, with code {process.returncode}") from None
        return found

    def _refused(self, why: str) -> ConfigError:
        why = ascii(" ".join(why.split()))[1:-1]
        return ConfigError(f"{self.origin}: the chat template {why if len(why) <= 200 else why[:197] + '...'}")
