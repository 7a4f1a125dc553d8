"""Makes flags of the command line from the declarations of options. Importing this costs nothing."""

import argparse
from typing import Any, TypeVar

from trimformer.options.option import Option, declared_options

Topic = TypeVar("Topic")
_Group = argparse.ArgumentParser | argparse._ArgumentGroup


def add_options(parser: _Group, topic: type, *names: str) -> None:
    """Adds a flag for each option of a topic, or for those of these names.

    Args:
        parser: a parser, or a group of one.
        topic: a dataclass of options.
        *names: options to add; all, if none is named.
    """
    for name, default, declared in declared_options(topic):
        if declared.on_command_line and (not names or name in names):
            parser.add_argument(*_flags(name, declared), **_details(default, declared))


def read_options(topic: type[Topic], arguments: argparse.Namespace, **values: Any) -> Topic:
    """Returns a topic from parsed flags; an absent flag keeps the default.

    Args:
        topic: a dataclass of options.
        arguments: the parsed flags.
        **values: values that replace those of the flags, by option name.

    Raises:
        TrimformerError: a value cannot be used.
    """
    for name, default, declared in declared_options(topic):
        value = getattr(arguments, _destination(name, declared), None)
        values.setdefault(name, default if value is None else value)
    return topic(**values)


def _flags(name: str, declared: Option) -> tuple[str, ...]:
    return declared.flags or ("--" + name.replace("_", "-"),)


def _destination(name: str, declared: Option) -> str:
    """Returns the attribute of the parsed arguments, which is also the key in `results.json`."""
    return _flags(name, declared)[0].lstrip("-").replace("-", "_")


def _details(default: Any, declared: Option) -> dict[str, Any]:
    """Returns the keyword arguments of `add_argument`."""
    if isinstance(default, bool):
        return {"action": "store_true", "help": declared.help}
    details: dict[str, Any] = {"help": declared.help, "metavar": declared.metavar}
    details["default"] = default if isinstance(default, str | int) else None
    if declared.choices is not None:
        return {**details, "choices": declared.choices}
    if declared.number is not None or declared.read is not None:
        details["type"] = declared.read or declared.number.read  # type: ignore[union-attr]
    if declared.several:
        details["nargs"] = "+"
    return details
