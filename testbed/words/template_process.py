"""The process that renders a chat template: `python -I template_process.py`, with JSON on both standard streams.

It imports nothing of this package. The environment of the template is that of transformers (utils/chat_template_utils),
for which templates are written.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from datetime import datetime
from typing import Any


def environment() -> Any:
    """Jinja's sandbox with what templates of chats expect to find."""
    import jinja2
    import jinja2.ext
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks the model's own words, for training; here it is what lies between."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's own renders an attribute that it forbids as nothing, if nothing is done with it."""

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(f"{attribute!r} of a {type(obj).__name__} is out of bounds")

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(f"refuses this conversation: {message}")

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )  # without the escapes for HTML of Jinja's own filter

    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def limit(cpu_s: int, memory_bytes: int) -> None:
    """Give this process that much CPU time and address space more than it has used until now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def rendered(asked: dict[str, Any]) -> dict[str, str]:
    """The text of the template, or why there is none."""
    made = environment()
    import jinja2
    import jinja2.debug  # else the first error would load it, with no memory left

    limit(asked["cpu_s"], asked["memory_bytes"])
    variables = {"tools": None, "documents": None, "add_generation_prompt": True} | asked["variables"]
    try:
        text = made.from_string(asked["template"]).render(**variables)
    except MemoryError:
        return {"error": f"needs more than {asked['memory_bytes'] >> 20} MiB of memory"}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"is no Jinja: {error.message} (line {error.lineno})"}
    except jinja2.TemplateError as error:
        refusal = str(error.message)
        return {"error": refusal if refusal.startswith("refuses ") else f"fails: {refusal}"}
    except Exception as error:
        return {"error": f"fails: {type(error).__name__}: {error}"}
    if len(text) > asked["most_characters"]:
        return {"error": f"renders more than {asked['most_characters']} characters"}
    return {"text": text}


def main() -> None:
    """Read what to render, drop standard input, and write the answer."""
    asked = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[:] = asked["path"]
    answer = rendered(asked)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
