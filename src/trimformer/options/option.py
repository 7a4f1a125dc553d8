"""How an option is declared: a dataclass field with its help, its check and its spelling on the command line.

Options are grouped by topic (data, method, budget, ...). A topic is a frozen dataclass whose fields are made by
`option`. From these fields come the flags of the command line (`trimformer.cli.option_flags`), the checks, which run
when the dataclass is created, and the documentation of the keywords of `trimformer.prune` and `trimformer.sweep`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from trimformer.errors import TrimformerError
from trimformer.options.checks import Number, shorten

Topic = TypeVar("Topic")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """The declaration of an option, beside its name, type and default.

    Attributes:
        help: a phrase for the command line and, without `python_help`, for Python.
        python_help: a phrase for Python, where it differs.
        number: the range of a number.
        choices: the values to choose from.
        check: (name, value) -> None; raises a `TrimformerError` for a value that cannot be used.
        read: turns a word of the command line into the value.
        flags: spellings of the flag; empty: `--name-with-dashes`. The first one names the value in `results.json`.
        metavar: placeholder of the value in the help.
        several: whether the flag takes several words.
        keyword: whether it is a keyword of `trimformer.prune` or `trimformer.sweep`.
        on_command_line: whether the command line has a flag for it.
    """

    help: str
    python_help: str = ""
    number: Number | None = None
    choices: tuple[Any, ...] | None = None
    check: Callable[[str, Any], None] | None = None
    read: Callable[[str], Any] | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    several: bool = False
    keyword: bool = True
    on_command_line: bool = True


def option(default: Any, help: str, **details: Any) -> Any:
    """A dataclass field that declares an option.

    Args:
        default: the value where nothing is given.
        help: see `Option`.
        **details: the other attributes of `Option`.
    """
    return field(default=default, metadata={"option": Option(help, **details)})


def declared_options(topic: type) -> Iterator[tuple[str, Any, Option]]:
    """Name, default and declaration of each option of a topic, in the order of its fields."""
    for declared in fields(topic):
        if "option" in declared.metadata:
            yield declared.name, declared.default, declared.metadata["option"]


def check_options(options: Any) -> None:
    """Checks every value of a topic by the option's declaration; None is valid where it is the default.

    Raises:
        TrimformerError: a value cannot be used.
    """
    for name, default, declared in declared_options(type(options)):
        value = getattr(options, name)
        if value is None and default is None:
            continue
        if declared.number is not None:
            declared.number.check(value, name)
        if declared.choices is not None and not (isinstance(value, str) and value in declared.choices):
            raise TrimformerError(
                f"{name} {shorten(value)} is unknown; known are {', '.join(map(str, declared.choices))}"
            )
        if declared.check is not None:
            declared.check(name, value)


def options_from(topic: type[Topic], values: Mapping[str, Any]) -> Topic:
    """A topic from values by option name; values of other names are ignored."""
    return topic(**{name: values[name] for name, _, _ in declared_options(topic) if name in values})


def document_keywords(*topics: type) -> Callable[[Function], Function]:
    """A decorator that writes the help of these topics' keywords in place of `{keywords}` in a docstring."""
    lines = [
        f"{name}: {declared.python_help or declared.help}"
        for topic in topics
        for name, _, declared in declared_options(topic)
        if declared.keyword
    ]

    def document(function: Function) -> Function:
        if function.__doc__ is not None:  # it is None under `python -OO`
            function.__doc__ = function.__doc__.replace("{keywords}", "\n        ".join(lines))
        return function

    return document
