"""`trimformer sweep`: calibrates once, writes a directory for each budget and method, and compares them."""

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimformer.checkpoints.checkpoint_checks import check_weights
from trimformer.checkpoints.gguf_input import is_gguf
from trimformer.checkpoints.load_guard import weight_files
from trimformer.checkpoints.save_load import find_directory, load
from trimformer.checkpoints.written_checks import check_tokenizer_reloads
from trimformer.cli.flags.sweep import SweepFlags, read
from trimformer.cli.logs import kept_log
from trimformer.cli.prune import MISSED
from trimformer.cli.resume import forget_calibration
from trimformer.cli.task_data import load_task_data
from trimformer.costs.backends import check_backend
from trimformer.data.files import is_data_file, read_rows
from trimformer.data.media import IMAGE_SUFFIXES, SOUND_SUFFIXES
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers
from trimformer.options.methods import METHODS
from trimformer.polish.unlabelled_rows import read_polish_data
from trimformer.reporting import figures
from trimformer.reporting.page.sweep import sweep_page
from trimformer.reporting.result_files import write_result
from trimformer.reporting.score_table import format_columns
from trimformer.reports import MISSED_LATENCY
from trimformer.results import PruningResult
from trimformer.session.inputs import Inputs
from trimformer.session.setup import check_llama_cpp, set_up
from trimformer.sweeping import SweepMember, dense_latency, mark_front, member_entry, prune_members, sweep_members
from trimformer.utils.distributed import broadcast_from_main, is_main, join_processes
from trimformer.utils.environment import resolve_device
from trimformer.utils.outputs import check_output, lock_collection, replace_file
from trimformer.utils.stage_timer import StageTimer
from trimformer.version import __version__

logger = logging.getLogger(__name__)

RECORD, PAGE = "family.json", "report.html"

# What may differ between the runs that make one sweep.
_FILES = ("data", "polish_data", "eval_data")  # flags of files, which count by their contents and not by their paths
_FREE = {"output", "constraints", "latency_ms", "methods", "words", "command", "device", "max_memory", "resume"}


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 0, or `MISSED` where a model misses its latency budget."""
    arguments.device = join_processes(arguments.device)
    flags = read(arguments)
    arguments.metric = flags.budgets.resolved_metric
    members = sweep_members(flags.methods.methods, flags.budgets.requests, flags.options.model.layout)
    check_backend(flags.options.latency.backend, resolve_device(flags.options.execution.device))
    output, identity = Path(arguments.output), identify(arguments)
    with ExitStack() as stack:

        def begin() -> Mapping[str, Any]:
            stack.enter_context(lock_collection(arguments.output))
            return _known(output, identity, members)

        before = broadcast_from_main(begin)
        missing = [member for member in members if not (output / member.folder / "results.json").is_file()]
        begun = {"identity": identity, "cost": before["cost"]}
        seconds = _prune(arguments, flags, missing, output, begun) if missing else {}
        if is_main():
            record = gather(_results(output), identity, seconds, before)
            _write(output, record)
            forget_calibration(output)
    if is_main():
        print(f"\n{format_sweep(record)}\n\nwritten to {arguments.output}")
        missed = [entry["directory"] for entry in record["members"] if entry.get("missed")]
        if missed:
            print(f"{', '.join(missed)}: {MISSED_LATENCY}", file=sys.stderr)
            return MISSED
    return 0


def _prune(
    arguments: argparse.Namespace,
    flags: SweepFlags,
    members: Sequence[SweepMember],
    output: Path,
    begun: Mapping[str, Any],
) -> dict[str, float]:
    """Prunes members and writes the directory of each; returns the seconds of each stage."""
    model, processor = load(arguments.model, model_type=arguments.model_type, dtype=arguments.dtype)
    check_tokenizer_reloads(model, processor)
    model.to(resolve_device(flags.options.execution.device))  # type: ignore[arg-type]
    check_llama_cpp(model, [member.method for member in members], arguments.metric, flags.options)
    options, timer = flags.options, StageTimer()
    with timer("rows"):
        task, train, validation = load_task_data(
            options.data, model, processor, options.execution.seed, timed_length=options.latency.seq_len
        )
    recorded = {key: value for key, value in vars(arguments).items() if key != "words"}

    def write(member: SweepMember, result: PruningResult) -> None:
        if not is_main():
            return
        if not (output / RECORD).is_file():
            output.mkdir(parents=True, exist_ok=True)
            _write(output, begun)
        command, sublayers = ["trimformer", *arguments.words], find_sublayers(model)
        write_result(result, result.processor, output / member.folder, sublayers, recorded, kept_log.lines, command)

    session = set_up(
        Inputs(model, processor, train, validation, task=task, reading_seconds=timer.seconds["rows"]),
        [member.method for member in members],
        flags.budgets.resolved_metric,
        options=replace(options, polish=read_polish_data(options.polish)),
        requests=[member.request for member in members],
    )
    prune_members(session, members, write)
    return session.timer.seconds


def identify(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what all members of a sweep must share: the contents of the model and of the files, and the flags."""
    flags = {key: value for key, value in vars(arguments).items() if key not in {*_FREE, "model", *_FILES}}
    output, name = Path(arguments.output), arguments.model
    return {
        "model": _digest(Path(name) if is_gguf(name) else find_directory(name), output),
        **{
            name: _digest(Path(path), output, has_rows=True) if (path := getattr(arguments, name, None)) else None
            for name in _FILES
        },
        "flags": json.loads(json.dumps(flags, default=str)),
        "trimformer": __version__,
    }


def _digest(path: Path, output: Path, *, has_rows: bool = False) -> str:
    """Returns the SHA-256 digest of a file, or of a folder's files and their names.

    Args:
        path: of the file or folder.
        output: folder whose files are left out.
        has_rows: whether it holds data; images and sounds that rows name count too.
    """
    total, written = hashlib.sha256(), output.resolve()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
    for file in files:
        if file.resolve().is_relative_to(written):
            continue
        total.update(str(file.relative_to(path)).encode())
        for content in (file, *(_named_media(file) if has_rows else ())):
            with content.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _named_media(file: Path) -> list[Path]:
    """Returns the images and sounds that the rows of a data file name, in the order of the rows."""
    if not is_data_file(file):
        return []
    suffixes, named = (*IMAGE_SUFFIXES, *SOUND_SUFFIXES), list[Path]()
    with suppress(TrimformerError):  # files that cannot be read are refused later
        for row in read_rows(file):
            for value in row.values():
                path = value.get("path") if isinstance(value, Mapping) else value
                if isinstance(path, str) and path.lower().endswith(suffixes) and os.path.isfile(path):  # any text
                    named.append(Path(path))
    return named


def _known(output: Path, identity: Mapping[str, Any], members: Sequence[SweepMember]) -> Mapping[str, Any]:
    """Reads the record of the sweep so far.

    Raises:
        TrimformerError: the folder holds something else, or it or one of the members cannot be written.
    """
    file = output / RECORD
    if not os.path.isfile(file):  # of a name that cannot be, too
        check_output(output)
        return {"cost": {"seconds": {}}}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        found = record["identity"]
        other = [key for key in ("model", "data", "trimformer") if found[key] != identity[key]]
        other += ["--" + key.replace("_", "-") for key in _FILES[1:] if found.get(key) != identity[key]]
        flags = {**found["flags"], **identity["flags"]}
        other += [
            "--" + key.replace("_", "-") for key in flags if found["flags"].get(key) != identity["flags"].get(key)
        ]
        sum(record["cost"]["seconds"].values())  # they are numbers by name, to be added to
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        raise TrimformerError(f"'{file}' was not written by 'trimformer sweep'; choose another output") from None
    if other:
        raise TrimformerError(
            f"output '{output}' holds a sweep of another {', '.join(other)}; choose another output, or run it as before"
        )
    there = _results(output)
    for folder, result in there.items():
        _check_member(output / folder, result, identity, record)
        check_weights(output / folder, f"remove '{output / folder}', and the sweep prunes this member again")
    for member in members:
        if member.folder not in there:
            check_output(output / member.folder)
    return record


def _results(output: Path) -> dict[str, Any]:
    """Reads the results of the members by folder; None where a file cannot be read."""
    found: dict[str, Any] = {}
    for file in sorted(output.glob("*/results.json")):
        if file.is_file():
            found[file.parent.name] = None
            with suppress(ValueError, RecursionError, OSError):
                found[file.parent.name] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _check_member(path: Path, result: Any, identity: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Checks the results of a member before the work, so that the record can be written at its end.

    Raises:
        TrimformerError: these are not the results of a sweep's member, or its weights are gone.
    """
    try:
        record = gather({path.name: result}, identity, {}, known)
        format_sweep(record)
        sweep_page(record)
    except Exception:  # whatever is missing, or is something else
        raise TrimformerError(
            f"'{path / 'results.json'}' holds no results of a sweep's member; remove '{path}', and "
            "the sweep prunes this member again"
        ) from None
    if not weight_files(path, "**/*.safetensors"):
        raise TrimformerError(f"'{path}' has no weights; remove it, and the sweep prunes this member again")


def gather(
    results: Mapping[str, Any], identity: Mapping[str, Any], seconds: Mapping[str, float], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the sweep's record from the results of its members.

    Args:
        results: results of each member, by folder.
        identity: see `identify`.
        seconds: seconds of this run, by stage.
        known: the record before this run.
    """
    first = next(iter(results.values()))
    machine = first["machine"]["device"]
    timed_here = [result for result in results.values() if result["machine"]["device"] == machine]
    if len(timed_here) < len(results):
        logger.warning(
            "%d of %d members were timed on another machine than %s; their milliseconds follow from their speed-ups",
            len(results) - len(timed_here),
            len(results),
            machine,
        )
    dense_ms = dense_latency(timed_here)
    entries = [
        member_entry(folder, folder.rsplit("-", 1)[0], result, dense_ms["median"]) for folder, result in results.items()
    ]
    metric = first["budget"]["metric"]
    mark_front(entries, metric)
    order = list(METHODS)
    entries.sort(key=lambda e: (order.index(e["method"]), -e["kept"]))
    before = known["cost"]["seconds"]
    total = {key: before.get(key, 0.0) + seconds.get(key, 0.0) for key in {**before, **seconds}}
    a_pass = first["cost"]["seconds_per_pass"]
    return {
        "identity": identity,
        "model": first["arguments"]["model"],
        "data": first["arguments"]["data"],
        "metric": metric,
        "score": first["task"]["score"],
        "problem": first["task"]["problem"],
        "dense": {
            "scores": first["scores"]["dense"],
            "sizes": first["sizes"]["dense"],
            "latency_ms": dense_ms,
        },
        "members": entries,
        "warnings": list(dict.fromkeys(line for result in results.values() for line in _warnings(result))),
        "cost": {
            "seconds": total,
            "forward_passes": {stage: value / a_pass for stage, value in total.items()},
        },
        "machine": first["machine"],
    }


def _warnings(result: Mapping[str, Any]) -> Sequence[str]:
    """Returns what the figures of a member do not cover."""
    return (result["coverage"] or {}).get("warnings", [])


def _write(output: Path, record: Mapping[str, Any]) -> None:
    replace_file(output / RECORD, json.dumps(record, indent=2) + "\n")
    if "members" in record:
        replace_file(output / PAGE, sweep_page(record))


def format_sweep(record: Mapping[str, Any]) -> str:
    """Formats one row per member, with a star for those on the Pareto front."""
    dense, score = record["dense"], record["score"]
    rows = [["", *([score] if score else []), "divergence", "MACs", "parameters (M)", "ms", "speed-up"]]

    def row(name: str, entry: Mapping[str, Any], divergence: str, speedup: str) -> list[str]:
        points = [figures.score(entry["scores"], score).text] if score else []
        share = f"{100 * entry['sizes']['macs'] / dense['sizes']['macs']:.1f} %"
        size, ms = entry["sizes"]["parameters"] / 1e6, entry["latency_ms"]["median"]
        return [name, *points, divergence, share, f"{size:.2f}", f"{ms:.2f}", speedup]

    rows.append(row("dense", dense, "", ""))
    for entry in record["members"]:
        name = entry["directory"] + " *" * entry["pareto"] + " !" * bool(entry.get("missed"))
        rows.append(row(name, entry, f"{entry['divergence']:.4f}", f"{entry['speedup']['median']:.2f}x"))
    seconds = sum(record["cost"]["seconds"].values())
    legend = "* on the Pareto front: none is both cheaper and nearer to the dense model"
    missed = [f"! {MISSED_LATENCY}"] if any(entry.get("missed") for entry in record["members"]) else []
    warnings = ["", *(f"warning: {line}" for line in record["warnings"])] if record["warnings"] else []
    return "\n".join([*format_columns(rows), "", legend, *missed, f"{seconds:.1f} seconds in all", *warnings])
