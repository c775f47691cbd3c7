"""What is not as a manifest says: images are known by their content, whatever their names."""

import contextlib
import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any, NamedTuple

from headswap.data.manifest import Manifest, read_manifest, used_images
from headswap.errors import UserError, bulleted
from headswap.images.folders import SPLIT_NAMES, find_images, is_image
from headswap.io import is_address, local_path, read_bytes, read_json, refuse_outputs, write_json
from headswap.params import GENERATED, Dataset, recorded_stages
from headswap.paths import RUNS

OPTIONS = RUNS / "manifests.json"  # that wrote each, without those that split all anew
KNOWN = RUNS / "photographs.json"  # their sizes, times and digests, so that none is read again
IN_SPLIT = re.compile(rf"(?:^|/)({'|'.join(SPLIT_NAMES)})/(.+/.+)", re.IGNORECASE)


class File(NamedTuple):
    """A file in an archive or folder that may be an image of a manifest."""

    name: str
    size: int
    sha256: str = ""  # empty where no listed image has this size, or it cannot be read
    damage: str = ""  # why it cannot


def check_dataset(dataset: Dataset) -> None:
    """Check that the parameters name images that can be fetched and their correct manifest."""
    if dataset.url == GENERATED:
        return
    check_url(dataset.url)
    refuse_outputs(dataset.manifest, "dataset.manifest")
    if not is_address(dataset.url) and not local_path(dataset.url).exists():
        # In a clone and in a queued experiment DVC has the archive that was packed from the folder.
        packed = recorded_stages().get("fetch", {}).get("params", {}).get("params.yaml", {})
        if packed.get("dataset.url") != dataset.url:
            text = f"dataset.url: there is no {dataset.url} here."
            raise UserError(f"{text}\nCorrect params.yaml, then run: headswap check")
    if _is_folder(dataset):
        check_photographs(dataset)
    else:
        read_manifest(dataset.manifest)


def check_url(url: str) -> None:
    """Raise a UserError unless images can be fetched from an address or a path."""
    is_web = url.lower().startswith(("https://", "http://"))
    others = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
    if url.lower().endswith(others) or (is_address(url) and not is_web):
        allowed = f"a zip, local or at https:// or http://, a folder of classes, and {GENERATED}"
        remedy = "Fetch and unpack it, set dataset.url to the folder, then run: headswap check"
        raise UserError(f"dataset.url: {url} cannot be fetched; allowed are {allowed}.\n{remedy}")
    if not is_web:
        refuse_outputs(url, "dataset.url")


def check_photographs(dataset: Dataset) -> None:
    """Raise a UserError with every difference of the folder, if it is here, from the manifest."""
    if changes := find_changes(dataset):
        text = f"{dataset.url} is not as {dataset.manifest} says:\n{bulleted(changes)}\nTo take the"
        raise UserError(f"{text} change in: {manifest_command(dataset)}\nThen: dvc repro")


def note_changes(dataset: Dataset) -> str:
    """Return a line that says that a local folder is not as its manifest says, empty if it is."""
    note = f"{dataset.url} is not as {dataset.manifest} says (photographs added, removed, changed "
    count = len(find_changes(dataset))
    return f"{note}or moved: {count}). To see which: headswap check" if count else ""


def manifest_command(dataset: Dataset) -> str:
    """Return the command that writes a dataset's manifest, with the options that were used."""
    command = f"headswap manifest {quote(dataset.url)} --output {quote(dataset.manifest)}"
    known = _read(OPTIONS)  # in which earlier versions kept whole commands
    before = known.get(command, "").removeprefix(command)
    return command + known.get(os.path.relpath(dataset.manifest), before)


def remember_command(dataset: Dataset, options: dict[str, object]) -> None:
    """Remember the options that a dataset's manifest was written with."""
    words = [f" --{name} {quote(str(value))}" for name, value in options.items() if value]
    write_json(OPTIONS, _read(OPTIONS) | {os.path.relpath(dataset.manifest): "".join(words)})


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(read_json(path))
    return {}


def find_changes(dataset: Dataset) -> list[str]:
    """Return a line for each difference between a local folder, if it is one, and its manifest."""
    if not _is_folder(dataset):
        return []
    if not os.path.isfile(dataset.manifest):
        read_manifest(dataset.manifest)  # which says so
    known, images = _read(KNOWN), find_images(local_path(dataset.url))
    was_unchanged = known.pop("unchanged", False)
    (_, *files), seen = _read_files({"manifest": dataset.manifest, **images}, known)
    if was_unchanged and seen == known:  # neither the manifest nor a photograph was touched since
        return []
    lines = _differences(files, read_manifest(dataset.manifest))
    write_json(KNOWN, {"unchanged": not lines, **seen})
    return lines


def _differences(files: list[File], manifest: Manifest) -> list[str]:
    found, lines = match_files(files, manifest, all_extra=True)
    used = used_images(manifest)
    labels = {name.split("/")[1] for name in used}
    paths = [files[place].name for place in found]
    for path, name, listed in zip(paths, found.values(), listed_names(paths, used), strict=True):
        if listed != path:
            continue
        split, label, _ = name.split("/", 2)
        folders = from_split(path).split("/")[:-1][:2]
        in_other = label not in folders or {*folders} & ({*SPLIT_NAMES} - {split})
        if in_other and labels.intersection(folders):
            lines.append(f"moved: {name} is in {'/'.join(folders)} now")
    return lines


def _is_folder(dataset: Dataset) -> bool:
    return dataset.url != GENERATED and local_path(dataset.url).is_dir()


def _read_files(paths: dict[str, str], known: dict[str, Any]) -> tuple[list[File], dict[str, Any]]:
    """Return sizes and digests, and what is known of the files now; only touched ones are read."""
    seen, files, here = {}, [], os.getcwd()
    for name, path in paths.items():
        status, where = os.stat(path), os.path.join(here, path)
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        *before, digest = known.get(where, [""])
        if before != stamp:
            digest = hashlib.sha256(read_bytes(path)).hexdigest()
        files.append(File(name, status.st_size, digest))
        seen[where] = [*stamp, digest]
    return files, seen


def match_files(
    files: Sequence[File], manifest: Manifest, all_extra: bool = False
) -> tuple[dict[int, str], list[str]]:
    """Return a manifest's images by the places of their files, found by content; what differs.

    Of files of the same content as many are images as are listed, first those of a listed name.
    Extra ones are told beside a listed image or, if one is missing or `all_extra`, anywhere; those
    that the manifest leaves out nowhere.
    """
    left_out = {entry[:2] for entry in manifest.values() if entry.left_out}
    manifest = used_images(manifest)
    unfound: dict[tuple[int, str], list[str]] = defaultdict(list)
    for name, entry in manifest.items():
        unfound[entry[:2]].append(name)
    named = listed_names((file.name for file in files), manifest)
    keys = [file[1:3] for file in files]
    found: dict[int, str] = {}
    for place in sorted(range(len(files)), key=lambda p: named[p] not in unfound[keys[p]]):
        if names := unfound[keys[place]]:
            found[place] = named[place] if named[place] in names else names[0]
            names.remove(found[place])
    others = [p for p, key in enumerate(keys) if p not in found and key not in left_out]
    extra = {named[place]: files[place] for place in others}
    missing = sorted(name for names in unfound.values() for name in names)
    changed = {name: extra.pop(name) for name in missing if name in extra}
    lines = []
    for name, file in changed.items():
        size, digest = manifest[name][:2]
        why = f"SHA-256 {file.sha256[:12]}…, not {digest[:12]}…"
        why = file.damage or (f"{file.size} bytes, not {size}" if file.size != size else why)
        lines.append(f"{'damaged' if file.damage else 'changed'}: {name} ({why})")
    lines += [f"missing: {name}" for name in missing if name not in changed]
    names = [file.name for file in extra.values() if is_image(file.name)]
    if not (all_extra or missing):
        folders = {PurePosixPath(files[place].name).parent for place in found}
        names = [name for name in names if PurePosixPath(name).parent in folders]
    return found, lines + [f"extra: {name}" for name in names]


def listed_names(paths: Iterable[str], manifest: Manifest) -> list[str]:
    """Return the names in a manifest that paths mean; a path that is not listed is its own.

    A path may have folders before the split, or lack the split, and the class where a table has it.
    """
    names, listed = [], [*reversed(manifest)]
    ends = {name.split("/", start)[-1]: name for start in (2, 1, 0) for name in listed}
    for path in paths:
        plain = unicodedata.normalize("NFC", path)
        if not (name := ends.get(plain)):
            plain = from_split(plain)
            name = ends.get(plain) or ends.get(plain.removeprefix("train/"), path)
        names.append(name)
    return names


def from_split(path: str) -> str:
    """Return a path from its split on, if it has one: train/bee/1.jpg of set/Train/bee/1.jpg."""
    found = IN_SPLIT.search(path)
    return f"{SPLIT_NAMES[found[1].lower()]}/{found[2]}" if found else path
