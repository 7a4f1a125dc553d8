"""One file of rows: JSON lines, JSON, CSV, TSV, text or Parquet, the first five also compressed by gzip."""

import csv
import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from trimformer.data.rows import Rows
from trimformer.errors import TrimformerError, flat
from trimformer.utils.input_paths import check_readable

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")

_SEPARATORS = ",;\t|"


def kind_of(path: Path) -> tuple[str, str]:
    """A file's name without its suffix, and the suffix in lower case, that of gzip left out: ("train", ".csv")."""
    name = path.name[:-3] if path.suffix.lower() == ".gz" else path.name
    suffix = Path(name).suffix
    return name.removesuffix(suffix), suffix.lower()


def is_data_file(path: Path) -> bool:
    """Whether `read_rows` knows files of that name."""
    suffix = kind_of(path)[1]
    return suffix in SUFFIXES and not (suffix == ".parquet" and path.suffix.lower() == ".gz")


def read_rows(path: str | Path) -> Rows:
    """Rows of one file: JSON lines (or one JSON list), CSV, TSV, a text a line, or Parquet.

    All but Parquet may be compressed (`.csv.gz`). Fields of a CSV file are separated by what its header is: a comma, a
    semicolon, a tab or a bar. Lines of a text file become the column `text`; empty ones are left out.

    Raises:
        TrimformerError: the file is missing, empty, not UTF-8, not of a known type, or broken.
    """
    check_readable(path, "data file")
    path = Path(path)
    if not path.is_file():
        told = "is a folder; name a file in it" if path.is_dir() else "does not exist"
        raise TrimformerError(f"data file '{path}' {told}")
    if not is_data_file(path):
        raise TrimformerError(
            f"data file '{path}' is of no known type; known are {', '.join(SUFFIXES)}, and .gz of all but the last"
        )
    suffix = kind_of(path)[1]
    try:
        rows = _read_parquet(path) if suffix == ".parquet" else _PARSERS[suffix](path)
    except UnicodeDecodeError as error:
        raise TrimformerError(f"data file '{path}' is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (csv.Error, OSError, EOFError, zlib.error, ValueError) as error:
        raise TrimformerError(f"data file '{path}' cannot be read: {flat(error)}") from error
    if not rows:
        raise TrimformerError(f"data file '{path}' is empty")
    return rows


def read_texts(path: str | Path) -> list[str]:
    """Lines of a text file, whatever it is called; it may be compressed (`.gz`). Empty ones are left out.

    Raises:
        TrimformerError: the file is missing, empty, not UTF-8 or broken.
    """
    check_readable(path, "text file")
    path = Path(path)
    if not path.is_file():
        told = "is a folder; name a file in it" if path.is_dir() else "does not exist"
        raise TrimformerError(f"text file '{path}' {told}")
    try:
        texts = [row["text"] for row in _read_text(path)]
    except UnicodeDecodeError as error:
        raise TrimformerError(f"text file '{path}' is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TrimformerError(f"text file '{path}' cannot be read: {error}") from error
    if not texts:
        raise TrimformerError(f"text file '{path}' is empty; give a text a line")
    return texts


def _open(path: Path) -> TextIO:
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig", newline="")


def _lines(path: Path) -> list[str]:
    with _open(path) as file:
        return file.read().replace("\r\n", "\n").split("\n")  # Unicode's other line ends may be inside of a text


def _read_json(path: Path) -> Rows:
    lines = _lines(path)
    if "".join(lines[:50]).lstrip().startswith("["):
        rows = _json("\n".join(lines))
    else:
        rows = []
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    rows.append(_json(line))
                except json.JSONDecodeError as error:
                    raise ValueError(f"line {number} is not JSON ({error.msg})") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a JSON object")
    return rows


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"'{_twice([key for key, _ in pairs])}' stands twice in one object")
    return made


def _twice(names: Sequence[Any]) -> Any:
    """The first name that stands twice; None: there is none."""
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def _read_text(path: Path) -> Rows:
    return [{"text": line.strip()} for line in _lines(path) if line.strip()]


def _read_csv(path: Path) -> Rows:
    """Rows by the separator that makes most columns of the header, and as many fields of every row."""
    if kind_of(path)[1] == ".tsv":
        return _separated(path, "\t")
    with _open(path) as file:
        header = file.readline()
    widths = {separator: len(next(csv.reader([header], delimiter=separator), [])) for separator in _SEPARATORS}
    likely = [separator for separator in sorted(widths, key=lambda s: -widths[s]) if widths[separator] > 1] or [","]
    failures: list[Exception] = []
    for separator in likely:
        try:
            return _separated(path, separator)
        except (csv.Error, ValueError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            failures.append(error)
    raise failures[0]


def _separated(path: Path, separator: str) -> Sequence[dict[str, Any]]:
    with _open(path) as file:
        reader = csv.DictReader(file, delimiter=separator, strict=True)
        twice = _twice([name for name in reader.fieldnames or () if name])
        if twice is not None:
            raise ValueError(f"its header names column '{twice}' twice")
        rows = list(reader)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has more or fewer fields than the header")
    return rows


def _read_parquet(path: Path) -> Rows:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    twice = _twice(table.column_names)
    if twice is not None:
        raise ValueError(f"it has two columns '{twice}'")
    rows: Rows = table.to_pylist()
    return rows


_PARSERS = {".jsonl": _read_json, ".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".txt": _read_text}
