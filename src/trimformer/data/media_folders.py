"""Folders of images or of sounds, by class or without classes."""

from collections.abc import Iterator
from pathlib import Path

from trimformer.data.files import is_data_file, kind_of, read_rows
from trimformer.data.media import IMAGE_SUFFIXES, SOUND_SUFFIXES
from trimformer.data.rows import Rows
from trimformer.errors import TrimformerError

_COLUMN = {**dict.fromkeys(IMAGE_SUFFIXES, "image"), **dict.fromkeys(SOUND_SUFFIXES, "audio")}


def read_media(path: Path, split_names: tuple[str, ...]) -> dict[str, Rows]:
    """Splits of a folder of images or sounds; empty where it is none.

    The files lie in `<class>/`, in `<split>/<class>/`, or, without labels, in the folder or in `<split>/` itself. In
    place of classes a file `metadata.csv` (or .jsonl, ...) beside them may hold what is known of each `file_name`.

    Args:
        path: of the folder.
        split_names: how the names of splits begin.

    Returns:
        Rows with the file's path as `image` or `audio`, and the name of its class as `label`.

    Raises:
        TrimformerError: images and sounds are mixed, files lie beside folders of classes, or a folder is empty.
    """
    folders = list(_folders(path))
    with_media = [folder for folder in folders if _files(folder) or any(_files(inner) for inner in _folders(folder))]
    if with_media and all(folder.name.lower().startswith(split_names) for folder in with_media):
        return {folder.name.lower(): _read(folder) for folder in with_media}
    return {"all": _read(path)} if with_media or _files(path) else {}


def _read(path: Path) -> Rows:
    """Rows of one split."""
    files, classes = _files(path), list(_folders(path))
    metadata = [file for file in sorted(path.iterdir()) if kind_of(file)[0] == "metadata" and is_data_file(file)]
    if metadata:
        return _with_metadata(metadata[0])
    if files and any(_files(folder) for folder in classes):
        raise TrimformerError(f"folder '{path}' holds both files and folders of classes; move {files[0].name} into one")
    if files:
        rows = [_row(file) for file in files]
    else:
        rows = []
        for folder in classes:
            inside = _files(folder)
            if not inside:
                raise TrimformerError(f"class folder '{folder}' holds no image and no sound; fill or remove it")
            rows += [{**_row(file), "label": folder.name} for file in inside]
    kinds = {kind for row in rows for kind in ("image", "audio") if kind in row}
    if len(kinds) > 1:
        raise TrimformerError(f"folder '{path}' holds images and sounds; keep them in folders of their own")
    return rows


def _with_metadata(file: Path) -> Rows:
    """Rows of a metadata file, with what their `file_name` names beside it."""
    rows = []
    for number, row in enumerate(read_rows(file), start=1):
        media = file.parent / str(row.get("file_name"))
        if not media.is_file() or media.suffix.lower() not in _COLUMN:
            raise TrimformerError(f"'file_name' in row {number} of '{file}' names no image and no sound: '{media}'")
        rows.append({**_row(media), **{key: value for key, value in row.items() if key != "file_name"}})
    return rows


def _row(file: Path) -> dict[str, str]:
    return {_COLUMN[file.suffix.lower()]: str(file)}


def _files(path: Path) -> list[Path]:
    visible = (file for file in path.iterdir() if not file.name.startswith("."))
    return sorted(file for file in visible if file.suffix.lower() in _COLUMN and file.is_file())


def _folders(path: Path) -> Iterator[Path]:
    # What an editor or an archive left is no class.
    return (folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith((".", "__")))
