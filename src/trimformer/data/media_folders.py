"""Reads folders of images or sounds, with one folder per class or without labels."""

from collections.abc import Iterator
from pathlib import Path

from trimformer.data.files import is_data_file, names_split, read_rows, stem_and_suffix
from trimformer.data.media import IMAGE_SUFFIXES, SOUND_SUFFIXES, is_file
from trimformer.data.rows import Rows
from trimformer.errors import TrimformerError, quoted

_COLUMN = {**dict.fromkeys(IMAGE_SUFFIXES, "image"), **dict.fromkeys(SOUND_SUFFIXES, "audio")}


def read_media(path: Path, split_names: tuple[str, ...]) -> dict[str, Rows]:
    """Reads the splits of a folder of images or sounds.

    The files are in `<class>/` or `<split>/<class>/` or, without labels, in the folder or `<split>/` itself. Instead of
    class folders, a `metadata.csv` (or .jsonl, ...) beside the files may hold columns for each `file_name`.

    Args:
        path: the folder.
        split_names: prefixes of the folder names that are splits.

    Returns:
        Rows by split: the path of each file as `image` or `audio` and the name of its class folder as `label`. Empty if
        the folder holds no images or sounds.

    Raises:
        TrimformerError: images and sounds are mixed, files are beside class folders, or a class folder is empty.
    """
    with_media = [
        folder for folder in _folders(path) if _files(folder) or any(_files(inner) for inner in _folders(folder))
    ]
    if with_media and all(names_split(folder.name.lower(), split_names) for folder in with_media):
        above = [file for file in _metadata(path) if "file_name" in next(iter(read_rows(file)), ())]
        if above and not all(map(_metadata, with_media)):
            raise TrimformerError(
                f"'{above[0]}' lies above the folders of the splits, where it is not read; put one into each of them, "
                "with the names of its files"
            )
        return {folder.name.lower(): _read(folder) for folder in with_media}
    return {"all": _read(path)} if with_media or _files(path) else {}


def _read(path: Path) -> Rows:
    """Reads the rows of one split."""
    files, classes = _files(path), list(_folders(path))
    if metadata := _metadata(path):
        return _with_metadata(metadata[0])
    if files and any(_files(folder) for folder in classes):
        raise TrimformerError(
            f"folder '{path}' holds both files and class folders; move {files[0].name} into a class folder"
        )
    if files:
        rows = [_row(file) for file in files]
    else:
        rows = []
        for folder in classes:
            members = _files(folder)
            if not members:
                raise TrimformerError(f"class folder '{folder}' holds no image or sound; fill it or remove it")
            rows += [{**_row(file), "label": folder.name} for file in members]
    columns = {column for row in rows for column in ("image", "audio") if column in row}
    if len(columns) > 1:
        raise TrimformerError(f"folder '{path}' mixes images and sounds; keep them in separate folders")
    return rows


def _metadata(path: Path) -> list[Path]:
    """Returns the files of a folder that hold labels of its images or sounds."""
    return [file for file in sorted(path.iterdir()) if stem_and_suffix(file)[0] == "metadata" and is_data_file(file)]


def _with_metadata(file: Path) -> Rows:
    """Reads a metadata file and adds the path of the image or sound that each row's `file_name` names."""
    rows = []
    for number, row in enumerate(read_rows(file), start=1):
        media = file.parent / str(row.get("file_name"))
        if not is_file(media) or media.suffix.lower() not in _COLUMN:
            shown = quoted(row.get("file_name"), 100)
            raise TrimformerError(f"'file_name' in row {number} of '{file}' is not an image or sound there: {shown}")
        rows.append({**_row(media), **{key: value for key, value in row.items() if key != "file_name"}})
    return rows


def _row(file: Path) -> dict[str, str]:
    return {_COLUMN[file.suffix.lower()]: str(file)}


def _files(path: Path) -> list[Path]:
    visible = (file for file in path.iterdir() if not file.name.startswith("."))
    return sorted(file for file in visible if file.suffix.lower() in _COLUMN and file.is_file())


def _folders(path: Path) -> Iterator[Path]:
    # hidden folders and leftovers such as __MACOSX are not classes
    return (folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith((".", "__")))
