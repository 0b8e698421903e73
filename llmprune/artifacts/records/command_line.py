"""How a command is spelled that makes an artifact again: one line for a shell, quoted where need be."""

from __future__ import annotations

from collections.abc import Sequence

from llmprune.escaping import for_shell

Value = str | int | float | bool | None


def spell_command(name: str, *arguments: str, **options: Value | Sequence[str]) -> str:
    """``llmprune NAME ARGUMENT ... --OPTION VALUE ...``, as a shell reads it.

    Args:
        name: of the command.
        arguments: what stands before the options.
        options: by their names with ``_`` for ``-``, in the order in which they are typed. None is left out; True is
            typed without a value, and False left out; a sequence repeats its option. Numbers are spelled so that they
            read back as the same number.
    """
    typed = [word for option, value in options.items() for word in _typed(f"--{option.replace('_', '-')}", value)]
    return " ".join(map(for_shell, ["llmprune", name, *arguments, *typed]))


def unless_usual(value: Value, usual: Value) -> Value:
    """A value that is to be typed; None where it is the option's default."""
    return None if value == usual else value


def _typed(option: str, value: Value | Sequence[str]) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    if isinstance(value, float):
        value = repr(value).removesuffix(".0")
    values = [str(value)] if isinstance(value, str | int) else value
    return [word for one in values for word in (option, one)]
