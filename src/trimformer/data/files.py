"""Reads rows from one file: JSON lines, JSON, CSV, TSV, text (each optionally gzipped) or Parquet."""

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimformer.data.class_names import class_names_of
from trimformer.data.json_layouts import expand
from trimformer.data.rows import NamedRows, Rows, TextLines
from trimformer.errors import TrimformerError, flat, quoted
from trimformer.utils.input_paths import check_readable

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")

_SEPARATORS = ",;\t|"

# By the byte order mark; UTF-32's begins with UTF-16's.
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip

# A gzip file that unpacks to more than this size and this multiple of its own holds nothing but repetitions.
_LARGE, _MOST_PACKED = 1 << 26, 200
_ROW_BYTES = 184  # the smallest dictionary


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """Splits a file name, without `.gz`, into stem and lower-case suffix: `train.CSV.gz` gives ("train", ".csv")."""
    name = path.name[:-3] if path.suffix.lower() == ".gz" else path.name
    suffix = Path(name).suffix
    return name.removesuffix(suffix), suffix.lower()


def is_data_file(path: Path) -> bool:
    """Whether `read_rows` supports files with this suffix."""
    suffix = stem_and_suffix(path)[1]
    return suffix in SUFFIXES and not (suffix == ".parquet" and path.suffix.lower() == ".gz")


def names_split(name: str, splits: Sequence[str]) -> bool:
    """Whether a name is that of a split or of a part of one, such as `validation_matched`; `testimonials` is none."""
    return any(name.startswith(split) and not name[len(split) :][:1].isalpha() for split in splits)


def read_rows(path: str | Path) -> Rows:
    """Reads the rows of one file: JSON lines (or one JSON list), CSV, TSV, text or Parquet.

    Every format but Parquet may be gzipped (`.csv.gz`), and in UTF-8 or, with a byte order mark, UTF-16 or UTF-32. The
    separator of a CSV file (comma, semicolon, tab or bar) is detected from its header. Each non-empty line of a text
    file becomes a row with the column `text`. A JSON file may also be one object with a table in it; see `expand`.

    Raises:
        TrimformerError: the file is missing, empty, malformed, too large, in another encoding or of an unknown type.
    """
    path = _check_file(path, "data file")
    if not is_data_file(path):
        raise TrimformerError(
            f"data file '{path}' has an unknown type; give one of {', '.join(SUFFIXES)} (all but Parquet also as .gz)"
        )
    suffix = stem_and_suffix(path)[1]
    with _named(f"data file '{path}'"):
        rows = _read_parquet(path) if suffix == ".parquet" else _PARSERS[suffix](_read_content(path))
    if not rows:
        raise TrimformerError(f"data file '{path}' is empty")
    return rows


def read_texts(path: str | Path) -> list[str]:
    """Reads the non-empty lines of a text file, whatever its name if not that of rows; a `.gz` file is decompressed.

    Raises:
        TrimformerError: the file is missing, empty, malformed, too large or not a text.
    """
    path = _check_file(path, "text file")
    if is_data_file(path) and stem_and_suffix(path)[1] != ".txt":
        raise TrimformerError(f"'{path}' holds rows, not lines of text; give a text file with one text per line")
    with _named(f"text file '{path}'"):
        texts = [row["text"] for row in _read_text(_read_content(path))]
    if not texts:
        raise TrimformerError(f"text file '{path}' is empty; give one text per line")
    return texts


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns what reading a file raises into one sentence that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        encoding = error.encoding.upper()[:6].rstrip("-")  # without the byte order
        raise TrimformerError(f"{name} is not {encoding} (byte {error.start}); save it as UTF-8") from error
    except MemoryError as error:
        raise TrimformerError(f"{name} does not fit into memory; give a smaller file") from error
    except (csv.Error, OSError, EOFError, zlib.error, ValueError) as error:
        raise TrimformerError(f"{name} cannot be read: {flat(error)[:300]}") from error


def _check_file(path: str | Path, description: str) -> Path:
    if not str(path):
        raise TrimformerError(f"{description} has an empty name; give a file")
    check_readable(path, description)
    path = Path(path)
    if not path.is_file():
        problem = "is a folder; give a file in it" if path.is_dir() else "does not exist"
        raise TrimformerError(f"{description} '{path}' {problem}")
    return path


def _read_content(path: Path) -> str:
    """Reads a text file, decompressed and without a byte order mark.

    Raises:
        UnicodeDecodeError: the text has another encoding.
        ValueError: the file is far larger than a text, or binary.
    """
    is_packed = path.suffix.lower() == ".gz"
    size, memory = path.stat().st_size, _memory_bytes()
    opener: Callable[..., Any] = gzip.open if is_packed else open
    parts: list[bytes] = []
    total, encoding = 0, "utf-8-sig"
    with opener(path, "rb") as file:
        while part := file.read(1 << 20):
            if not parts:
                encoding = next((name for mark, name in _ENCODINGS if part.startswith(mark)), encoding)
            if encoding == "utf-8-sig" and 0 in part:
                raise ValueError(
                    f"byte {total + part.index(0)} is zero, so it is no text in UTF-8; save it as UTF-8, or as UTF-16 "
                    "with a byte order mark"
                )
            total += len(part)
            if is_packed and total > max(_LARGE, _MOST_PACKED * size):
                raise ValueError(
                    f"its {size} bytes unpack to more than {total >> 20} MB of repetitions; unpack it and look inside"
                )
            if max(total, 0 if is_packed else size) > memory:
                raise MemoryError
            parts.append(part)
    return b"".join(parts).decode(encoding)


def _memory_bytes() -> float:
    """Bytes of this machine's memory; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")  # other Unicode line ends may occur inside a text


def _read_json(text: str) -> Rows:
    rows = _json(text) if text[:1000].lstrip().startswith("[") else _read_json_lines(text)
    if not isinstance(rows, list):
        rows = [rows]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a JSON object")
    return expand(rows)


def _read_json_lines(text: str) -> Any:
    """Reads one value per line, or one object over all lines."""
    rows: list[Any] = []
    for number, line in enumerate(_lines(text), start=1):
        if line.strip():
            try:
                rows.append(_json(line))
            except json.JSONDecodeError as error:
                if not rows and line.lstrip().startswith("{"):
                    try:
                        return _json(text)
                    except json.JSONDecodeError:
                        pass
                raise ValueError(f"line {number} is not JSON ({error.msg})") from error
    return rows


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"an object has the key {quoted(_first_duplicate([key for key, _ in pairs]))} twice")
    return fields


def _first_duplicate(names: Sequence[Any]) -> Any:
    """The first repeated name, or None."""
    earlier = set()
    for name in names:
        if name in earlier:
            return name
        earlier.add(name)
    return None


def _read_text(text: str) -> Rows:
    return TextLines([line.strip() for line in _lines(text) if line.strip()], [text])


def _read_csv(text: str) -> Rows:
    """Reads a CSV file with the separator that gives the most columns and fits every row."""
    header = io.StringIO(text, newline="").readline()
    widths = {separator: len(next(csv.reader([header], delimiter=separator), [])) for separator in _SEPARATORS}
    candidates = [separator for separator in sorted(widths, key=lambda s: -widths[s]) if widths[separator] > 1] or [","]
    failures: list[Exception] = []
    for separator in candidates:
        try:
            return _read_separated(text, separator)
        except (csv.Error, ValueError) as error:
            failures.append(error)
    raise failures[0]


def _read_tsv(text: str) -> Rows:
    rows = _read_separated(text, "\t")
    for number, row in enumerate(rows, start=1):
        lines = [line.split("\t") for line in "\t".join(row.values()).split("\n")]
        whole = [len(fields) == len(row) > 1 and all(map(str.strip, fields)) for fields in lines]
        if any(whole[1:-1]) or (len(lines) > 1 and whole[0] and whole[-1]):
            raise ValueError(f"a field of row {number} holds tabs and line ends: a quote at its start is not closed")
    return rows


def _read_separated(text: str, separator: str) -> Sequence[dict[str, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a document may be a field
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    duplicate = _first_duplicate([name for name in reader.fieldnames or () if name])
    if duplicate is not None:
        raise ValueError(f"the header names column {quoted(duplicate)} twice")
    rows = list(reader)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has more or fewer fields than the header")
    return rows


def _read_parquet(path: Path) -> Rows:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
        if max(sum(sizes), _ROW_BYTES * file.metadata.num_rows) > _memory_bytes():
            raise MemoryError
    table = pyarrow.parquet.read_table(path)
    duplicate = _first_duplicate(table.column_names)
    if duplicate is not None:
        raise ValueError(f"the file has two columns named {quoted(duplicate)}")
    return NamedRows(table.to_pylist(), class_names_of(table))


_PARSERS: dict[str, Callable[[str], Rows]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_text,
}
