"""MkDocs hooks: pages that come from the source instead of being written by hand.

- `cli.md` is generated from the argparse parsers of the command line.
- `contributing.md`, `security.md` and `changelog.md` are the files at the top of the repository.
- Every error quoted in `troubleshooting.md` must stand in the source.
"""

import argparse
import ast
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "trimformer"
TOP_FILES = {"contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md", "changelog.md": "CHANGELOG.md"}

# MkDocs counts warnings of this logger, so `--strict` fails on them.
logger = logging.getLogger("mkdocs.hooks.trimformer")


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages to the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "cli.md", content=command_line_page()))
    for page, source in TOP_FILES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links to the top of the repository to their pages, and checks quoted errors."""
    if page.file.src_uri == "troubleshooting.md":
        for quote in missing_quotes(markdown):
            logger.warning("troubleshooting.md quotes an error that is not in the source: %s", quote)
    if page.file.src_uri == "families.md":
        page.meta["hide"] = ["toc"]  # its table needs the whole width
    for target, source in TOP_FILES.items():
        markdown = re.sub(rf"\]\((?:\.\./)*{source}(?=[)#])", f"]({target}", markdown)
    return markdown


def command_line_page() -> str:
    """Returns Markdown for every command, from the parsers that the commands use."""
    sys.path.insert(0, str(ROOT / "src"))
    from trimformer.cli.main import build_parser

    parser = build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    summaries = {action.dest: action.help for action in commands._choices_actions}
    lines = ["# Command line", "", "Generated from the parsers of the command line.", ""]
    for name, command in commands.choices.items():
        lines += [f"## trimformer {name}", "", f"{_sentence(summaries[name])}", ""]
        if not command.add_help:
            lines += [f"Run `trimformer {name} --help` for its flags, which are those of Transformers' Trainer.", ""]
            continue
        lines += _command(command)
    return "\n".join(lines)


def _command(command: argparse.ArgumentParser) -> Iterator[str]:
    """Yields the groups of flags of one command as definition lists, then its examples."""
    for group in command._action_groups:
        actions = [
            action for action in group._group_actions if action.help != argparse.SUPPRESS and action.dest != "help"
        ]
        if not actions:
            continue
        description = f" {_sentence(group.description)}" if group.description else ""
        yield from (f"**{(group.title or '').capitalize()}.**{description}", "")
        for action in actions:
            yield from (_flag(action), f":   {_help(action)}", "")
    if command.epilog:
        title, _, examples = command.epilog.partition("\n")
        code = "\n".join(line.strip() for line in examples.strip().splitlines())
        yield from (f"**{title.strip(':').capitalize()}**", "", "```", code, "```", "")


def _flag(action: argparse.Action) -> str:
    """Returns a flag with its aliases and its value, as code."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest.upper()}`"
    if action.choices is not None:
        value = " {" + ",".join(map(str, action.choices)) + "}"
    else:
        value = f" {action.metavar if isinstance(action.metavar, str) else action.dest.upper()}"
    first, *aliases = action.option_strings
    return " or ".join([f"`{first}{'' if action.nargs == 0 else value}`", *(f"`{alias}`" for alias in aliases)])


def _help(action: argparse.Action) -> str:
    """Returns the help text of a flag with its default filled in."""
    text = _sentence((action.help or "") % {**vars(action), "prog": "trimformer"})
    text = re.sub(r"(?<![`\w-])(--[a-z][\w-]*)", r"`\1`", text) or "No further help."
    return f"{text} **Required.**" if action.required and action.option_strings else text


def _sentence(text: str | None) -> str:
    """Returns the text with a capital letter and a full stop, safe inside Markdown."""
    text = " ".join((text or "").split()).replace("<", "&lt;")
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "...")) else ".")


def missing_quotes(markdown: str) -> list[str]:
    """Returns the headings in backticks whose parts between "..." are in no string of the source."""
    strings = "\n".join(_source_strings())
    quotes = re.findall(r"^#+ `(.+)`$", markdown, flags=re.MULTILINE)
    return [quote for quote in quotes if any(part.strip() not in strings for part in quote.split("..."))]


def _source_strings() -> Iterator[str]:
    """Yields every string of the source, the values of f-strings replaced by a zero byte."""
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
