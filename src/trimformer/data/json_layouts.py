"""Turns JSON objects that hold a whole table into rows: tables of pandas, tables under "data", SQuAD's own file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimformer.errors import listed

MESSAGES = ("messages", "conversations", "conversation")  # columns of conversations

_INDEX = re.compile(r"-?\d+")
_ADVICE = "write one object a line, or a list of objects"


def expand(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Returns the rows of a file of JSON objects, which may be one object with the whole table in it.

    Tables are what pandas writes (`orient` "columns", "index", "split" and "table"), a dictionary of columns, a list
    under "data", and SQuAD's articles with their paragraphs and questions. Other rows are returned unchanged.

    Raises:
        ValueError: the object holds several tables, or one of an unknown layout.
    """
    rows = list(_rows_of_object(rows[0])) if len(rows) == 1 else rows
    if rows and all(isinstance(row.get("paragraphs"), list) for row in rows):
        try:
            return list(_questions(rows))
        except (AttributeError, KeyError, TypeError):
            raise ValueError(
                "it holds articles with 'paragraphs' that are not in SQuAD's format; give 'context' and 'qas' for each"
            ) from None
    return rows


def _rows_of_object(table: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Rows of one JSON object; the object itself if it is a row."""
    data = table.get("data")
    if isinstance(data, Mapping):
        return _rows_of_object(data)
    if isinstance(data, list):
        columns = table.get("columns")
        if isinstance(columns, list) and all(isinstance(row, list) and len(row) == len(columns) for row in data):
            return [dict(zip(map(str, columns), row, strict=True)) for row in data]
        if not all(isinstance(row, Mapping) for row in data):
            raise ValueError(f"it is one JSON object whose 'data' is not a list of objects; {_ADVICE}")
        return data
    values = list(table.values())
    is_conversation = len(table) == 1 and next(iter(table)).lower() in MESSAGES
    if values and all(map(_is_list_of_objects, values)) and not is_conversation:
        raise ValueError(f"it is one JSON object with several tables, {listed(table)}; write each to a file of its own")
    if values and all(isinstance(value, Mapping) and value for value in values):
        if all(map(_INDEX.fullmatch, table)):  # pandas, orient="index"
            return values
        if all(_INDEX.fullmatch(str(key)) for value in values for key in value):  # pandas, orient="columns"
            if any(value.keys() != values[0].keys() for value in values):
                raise ValueError(f"it is one JSON object whose columns have different rows; {_ADVICE}")
            return [{name: column[key] for name, column in table.items()} for key in values[0]]
    if _are_columns(values):
        return [dict(zip(table, row, strict=True)) for row in zip(*values, strict=True)]
    return [table]


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _are_columns(values: Sequence[Any]) -> bool:
    """Whether values are the columns of a table: a row of words and their tags has no text with a space in it."""
    if not values or not all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
        return False
    items = [item for value in values for item in value]
    has_texts = any(isinstance(item, str) and " " in item.strip() for item in items)
    return has_texts and not any(isinstance(item, list | Mapping) for item in items)


def _questions(articles: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields a row for each question in SQuAD's articles; an impossible question has no answers."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                row = {"title": article.get("title"), "context": paragraph["context"], "question": question["question"]}
                row |= {"id": question["id"]} if "id" in question else {}
                if "answers" in question:
                    answers = [] if question.get("is_impossible") else question["answers"]
                    row["answers"] = {key: [answer[key] for answer in answers] for key in ("text", "answer_start")}
                yield row
