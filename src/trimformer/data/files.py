"""Reads rows from one file: JSON lines, JSON, CSV, TSV, text (each optionally gzipped) or Parquet."""

import csv
import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from trimformer.data.class_names import class_names_of
from trimformer.data.rows import NamedRows, Rows
from trimformer.errors import TrimformerError, flat
from trimformer.utils.input_paths import check_readable

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")

_SEPARATORS = ",;\t|"


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """Splits a file name, without `.gz`, into stem and lower-case suffix: `train.CSV.gz` gives ("train", ".csv")."""
    name = path.name[:-3] if path.suffix.lower() == ".gz" else path.name
    suffix = Path(name).suffix
    return name.removesuffix(suffix), suffix.lower()


def is_data_file(path: Path) -> bool:
    """Whether `read_rows` supports files with this suffix."""
    suffix = stem_and_suffix(path)[1]
    return suffix in SUFFIXES and not (suffix == ".parquet" and path.suffix.lower() == ".gz")


def read_rows(path: str | Path) -> Rows:
    """Reads the rows of one file: JSON lines (or one JSON list), CSV, TSV, text or Parquet.

    Every format but Parquet may be gzipped (`.csv.gz`). The separator of a CSV file (comma, semicolon, tab or bar) is
    detected from its header. Each non-empty line of a text file becomes a row with the column `text`.

    Raises:
        TrimformerError: the file is missing, empty, malformed, not UTF-8 or of an unknown type.
    """
    path = _check_file(path, "data file")
    if not is_data_file(path):
        raise TrimformerError(
            f"data file '{path}' has an unknown type; give one of {', '.join(SUFFIXES)} (all but Parquet also as .gz)"
        )
    suffix = stem_and_suffix(path)[1]
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
    """Reads the non-empty lines of a text file of any name; a `.gz` file is decompressed.

    Raises:
        TrimformerError: the file is missing, empty, malformed or not UTF-8.
    """
    path = _check_file(path, "text file")
    try:
        texts = [row["text"] for row in _read_text(path)]
    except UnicodeDecodeError as error:
        raise TrimformerError(f"text file '{path}' is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TrimformerError(f"text file '{path}' cannot be read: {error}") from error
    if not texts:
        raise TrimformerError(f"text file '{path}' is empty; give one text per line")
    return texts


def _check_file(path: str | Path, description: str) -> Path:
    check_readable(path, description)
    path = Path(path)
    if not path.is_file():
        problem = "is a folder; give a file in it" if path.is_dir() else "does not exist"
        raise TrimformerError(f"{description} '{path}' {problem}")
    return path


def _open(path: Path) -> TextIO:
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _lines(path: Path) -> list[str]:
    with _open(path) as file:
        return file.read().replace("\r\n", "\n").split("\n")  # other Unicode line ends may occur inside a text


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
        raise ValueError("the JSON is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"an object has the key '{_first_duplicate([key for key, _ in pairs])}' twice")
    return fields


def _first_duplicate(names: Sequence[Any]) -> Any:
    """The first repeated name, or None."""
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def _read_text(path: Path) -> Rows:
    return [{"text": line.strip()} for line in _lines(path) if line.strip()]


def _read_csv(path: Path) -> Rows:
    """Reads a CSV file with the separator that gives the most columns and fits every row."""
    if stem_and_suffix(path)[1] == ".tsv":
        return _read_separated(path, "\t")
    with _open(path) as file:
        header = file.readline()
    widths = {separator: len(next(csv.reader([header], delimiter=separator), [])) for separator in _SEPARATORS}
    candidates = [separator for separator in sorted(widths, key=lambda s: -widths[s]) if widths[separator] > 1] or [","]
    failures: list[Exception] = []
    for separator in candidates:
        try:
            return _read_separated(path, separator)
        except (csv.Error, ValueError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            failures.append(error)
    raise failures[0]


def _read_separated(path: Path, separator: str) -> Sequence[dict[str, Any]]:
    with _open(path) as file:
        reader = csv.DictReader(file, delimiter=separator, strict=True)
        duplicate = _first_duplicate([name for name in reader.fieldnames or () if name])
        if duplicate is not None:
            raise ValueError(f"the header names column '{duplicate}' twice")
        rows = list(reader)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has more or fewer fields than the header")
    return rows


def _read_parquet(path: Path) -> Rows:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    duplicate = _first_duplicate(table.column_names)
    if duplicate is not None:
        raise ValueError(f"the file has two columns named '{duplicate}'")
    return NamedRows(table.to_pylist(), class_names_of(table))


_PARSERS = {".jsonl": _read_json, ".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".txt": _read_text}
