"""The manifest: which images a data set has, each with its size and SHA-256."""

import contextlib
import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from headswap.data.facts import Facts, read_facts
from headswap.data.listing import Listing, Photograph, check_classes
from headswap.data.splits import Item, Split, name_groups, split_items
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import HEIC, READS_HEIC, SPLITS, is_image
from headswap.images.folds import cut_groups
from headswap.images.near_duplicates import near_duplicate_groups, near_duplicate_pairs
from headswap.io import output_path, read_bytes, write_csv
from headswap.paths import SHIPPED_MANIFEST
from headswap.progress import console

COLUMNS = ("path", "bytes", "sha256")
MOST_CLASSES = 30
"""How many classes are listed, the largest first."""


class Entry(NamedTuple):
    """What an image's file must be: its size in bytes, and its SHA-256 in hexadecimal digits.

    Images of one `group` are not independent; it is empty for an image alone. One that is not used
    says why in `left_out`.
    """

    size: int
    sha256: str
    group: str = ""
    left_out: str = ""


Manifest = dict[str, Entry]
"""An entry for each image, by its path ``<split>/<class>/…``; one that is not used may lie
elsewhere."""


def write_manifest(
    listing: Listing,
    path: str | PathLike[str],
    val: float | None = None,
    seed: int = 0,
    drop_duplicates: bool = False,
    test: float | None = None,
) -> Manifest:
    """Read all images of a user's folder; write its manifest, and return the images to use.

    `val` and `test` are the shares of the images to validate and to test on, where the folder does
    not say which these are. If `val` is None and `path` is an older manifest, images that it lists
    stay in their splits and groups, and its shares are used for the others. If that left
    near-duplicates out, they are left out again.
    """
    target = output_path(path, "--output", ".csv", renew_manifest=True)
    listed: Manifest = {}
    with contextlib.suppress(UserError):  # there is none, or one with mistakes
        listed = read_manifest(path)
    old = used_images(listed) if val is None else {}
    _check_shares(listing, val, test, old, path)
    facts = _read_images(listing)
    print_crop_warning(facts.values())
    again = any(entry.left_out.startswith("near-duplicate") for entry in listed.values())
    copies = find_copies(listing, facts) if drop_duplicates or again else {}
    used = {name: one for name, one in listing.photographs.items() if name not in copies}
    items = _find_items(listing, used, facts, old, val, test)
    same = near_duplicate_groups([facts[path].phash for path in used]).tolist()
    split = Split([one.split for one in items])
    if not all(split.splits):
        shares = [val, test]
        for place, name in enumerate(("val", "test")):
            if shares[place] is None and name not in listing.splits and old:
                shares[place] = sum(path.startswith(f"{name}/") for path in old) / len(old)
        split = _split(listing, items, same, shares[0] or 0, shares[1] or 0, seed)
    groups = name_groups(items, list(zip(same, split.splits, strict=True)))
    _note_groups(listing, items, split, groups)
    names = {
        path: f"{at}/{one.label}/{one.name}"
        for (path, one), at in zip(used.items(), split.splits, strict=True)
    }
    images = {
        names[path]: Entry(facts[path].bytes, facts[path].sha256, group)
        for path, group in zip(names, groups, strict=True)
    }
    check_classes(images, printable(listing.folder) + " without near-duplicates" * bool(copies))
    listing.hashes = {name: facts[path].phash for path, name in names.items()}
    rows = images | _entries_left_out(listing, facts, copies, names)
    columns = [
        column
        for column in ("group", "left_out")
        if any(getattr(entry, column) for entry in rows.values())
    ]
    write_csv(
        target,
        (*COLUMNS, *columns),
        [
            (name, entry.size, entry.sha256, *(getattr(entry, column) for column in columns))
            for name, entry in sorted(rows.items())
        ],
    )
    return images


def used_images(manifest: Manifest) -> Manifest:
    """Return the images of a manifest that are used."""
    return {name: entry for name, entry in manifest.items() if not entry.left_out}


def known_classes(path: str | PathLike[str]) -> set[str]:
    """Return the classes of an older manifest, none where there is no such."""
    with contextlib.suppress(UserError):
        return {name.split("/")[1] for name in used_images(read_manifest(path))}
    return set()


def _check_shares(
    listing: Listing,
    val: float | None,
    test: float | None,
    old: Manifest,
    path: str | PathLike[str],
) -> None:
    folder = printable(listing.folder)
    for name, share in (("val", val), ("test", test)):
        if share is not None and name in listing.splits:
            raise UserError(
                f"{folder} is split already; it has {name}/.\n"
                f"Leave --{name} out: headswap manifest {quote(folder)} --output {path}"
            )
        if share is not None and not 0 < share < 1:
            raise UserError(
                f"--{name} {share:g} is no share of the images, between 0 and 1.\n"
                f"Type: headswap manifest {quote(folder)} --{name} 0.3"
            )
    classes = {one.label for one in listing.photographs.values()}
    before = {name.split("/")[1] for name in old}
    if before and not before & classes:
        ones, others = (", ".join(sorted(names)[:5]) for names in (before, classes))
        raise UserError(
            f"{path} has other classes ({ones}) than these ({others}).\n"
            "If a table has the labels, name it again: --labels TABLE.csv. To begin anew, add "
            "--val 0.3."
        )
    if val is None and "val" not in listing.splits and not old:
        raise UserError(
            f"{folder} has classes, but no photographs to validate on.\n"
            f"To split them: headswap manifest {quote(folder)} --val 0.3 --seed 0"
        )


def _read_images(listing: Listing) -> dict[str, Facts]:
    """Return the facts of a listing's images; a UserError names all that cannot be read."""
    facts, reasons = read_facts({name: one.file for name, one in listing.photographs.items()})
    if reasons:
        lines = [
            f"{printable(listing.photographs[name].file)}: {why}" for name, why in reasons.items()
        ]
        raise UserError(
            f"{printable(listing.folder)} has {len(reasons)} images that cannot be read:\n"
            f"{bulleted(lines, len(lines))}\n"
            "Replace or remove them, then run the same command again."
        )
    return facts


def find_copies(listing: Listing, facts: Mapping[str, Facts]) -> dict[str, str]:
    """Return the images to leave out as near-duplicates, each with one that it is a copy of.

    In one class the first in order of name is kept; of copies in two classes none is, because one
    of their classes is wrong.
    """
    labels = {path: one.label for path, one in listing.photographs.items()}
    names = sorted(facts)
    hashes = [facts[name].phash for name in names]
    pairs = [(names[one], names[other]) for one, other, _ in near_duplicate_pairs(hashes)]
    copies: dict[str, str] = {}
    for one, other in pairs:
        if labels[one] != labels[other]:
            copies |= {one: other, other: one}
    for one, other in pairs:
        if one not in copies:
            copies.setdefault(other, one)
    for name, other in sorted(copies.items()):
        why = "near-duplicates"
        if labels[name] != labels[other]:
            why = "near-duplicates in two classes, of which one is wrong"
        listing.left_out.setdefault(why, []).append(f"{name}, of {other}")
    return copies


def _find_items(
    listing: Listing,
    used: Mapping[str, Photograph],
    facts: Mapping[str, Facts],
    old: Manifest,
    val: float | None,
    test: float | None,
) -> list[Item]:
    """Return what decides where images go; the split is empty where that is to be drawn."""
    known = {entry.sha256: (name.split("/")[0], entry.group) for name, entry in old.items()}
    is_grouped = any(one.group for one in used.values())
    items = []
    for path, one in used.items():
        split, group = known.get(facts[path].sha256, ("", ""))
        lacks_val = "val" not in listing.splits
        if one.split and not (one.split == "train" and (lacks_val or test)):
            split = one.split
        elif test and split != "val":
            split = ""
        items.append(Item(one.label, facts[path].sha256, one.group if is_grouped else group, split))
    return items


def _split(
    listing: Listing,
    items: Sequence[Item],
    same: Sequence[int],
    val: float,
    test: float,
    seed: int,
) -> Split:
    """Split images; near-duplicates stay together, unless a class could not be split then."""
    try:
        return split_items(items, same, val, test, seed)
    except UserError:
        split = split_items(items, [one.sha256 for one in items], val, test, seed)
        listing.notes.append(
            "Near-duplicates are in several splits: a class could not be validated on otherwise."
        )
        return split


def _note_groups(
    listing: Listing, items: Sequence[Item], split: Split, groups: Sequence[str]
) -> None:
    """Note in the listing what groups did to the splits, and the splits to the groups."""
    given = [one.group for one in items]
    if near := sum(bool(group) and group != of for group, of in zip(groups, given, strict=True)):
        listing.notes.append(f"{near} near-identical photographs count as of one group with others")
    if split.moved:
        listing.notes.append(f"{split.moved} photographs moved to the split of their group")
    if cut := cut_groups(split.splits, given):
        lines = [
            f"{group}: {', '.join(f'{count} in {at}' for at, count in sorted(counts.items()))}"
            for group, counts in cut.items()
        ]
        listing.notes.append(
            f"These splits cut {len(cut)} of {len(set(given) - {''})} groups, so "
            f"that accuracies will be too high:\n{bulleted(lines, 10)}"
        )
    if split.missed:
        listing.notes.append(
            f"Groups stay whole, so that shares are not as wanted:\n{bulleted(split.missed, 10)}"
        )


def _entries_left_out(
    listing: Listing,
    facts: Mapping[str, Facts],
    copies: Mapping[str, str],
    names: Mapping[str, str],
) -> Manifest:
    """Return the entries of all photographs in the folder that are not used."""
    entries = {}
    for path, other in copies.items():
        one = listing.photographs[path]
        name = f"{one.split or 'train'}/{one.label}/{one.name}"
        why = f"near-duplicate of {names.get(other, other)}"
        entries[name] = Entry(facts[path].bytes, facts[path].sha256, "", why)
    for path, (file, why) in listing.unused.items():
        content = read_bytes(file)
        digest = hashlib.sha256(content).hexdigest()
        entries[printable(path)] = Entry(len(content), digest, "", why)
    return entries


def read_manifest(path: str | PathLike[str]) -> Manifest:
    """Read a manifest file; a UserError names every line that is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        own = f"Make it with: headswap manifest FOLDER --output {path}"
        remedy = "Restore it with: git checkout data" if Path(path) == SHIPPED_MANIFEST else own
        raise UserError(f"dataset.manifest: there is no {path}.\n{remedy}") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(
            f"dataset.manifest: {path} is not a table in UTF-8: {error}.\n"
            f"Make it with: headswap manifest FOLDER --output {path}"
        ) from None
    return parse_manifest(text, str(path))


def parse_manifest(text: str, name: str) -> Manifest:
    """Read a manifest from its text; `name` is the file's, for the message of the UserError."""
    manifest: Manifest = {}
    mistakes = []
    heading = text.split("\n", 1)[0]
    delimiter = ";" if ";" in heading and "," not in heading else ","  # as Excel may write it
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    try:
        for row in rows:
            path, size, digest = ((row.get(column) or "").strip() for column in COLUMNS)
            parts = PurePosixPath(path).parts
            left_out = row.get("left_out") or ""
            if copy_of := row.get("duplicate_of"):  # as earlier versions wrote it
                left_out = f"near-duplicate of {copy_of}"
            wrong = _find_mistake(path, size, digest, bool(left_out))
            if not wrong and "/".join(parts) in manifest:
                wrong = "the path is listed twice"
            if wrong:
                line = delimiter.join(map(str, row.values()))[:100]
                mistakes.append(f"line {rows.line_num}: {printable(line)} ({wrong})")
            else:
                group = (row.get("group") or "").strip()
                manifest["/".join(parts)] = Entry(int(size), digest.lower(), group, left_out)
    except csv.Error as error:
        mistakes.append(f"line {rows.line_num}: {error}")
    if mistakes or not manifest:
        raise UserError(
            f"{name} is not a manifest of images (columns {', '.join(COLUMNS)}, every path once, "
            f"as <split>/<class>/<image>).\n{bulleted(mistakes)}\n"
            "Restore it with `git checkout`, or make one: headswap manifest FOLDER"
        )
    check_classes(used_images(manifest), name)
    return manifest


def _find_mistake(path: str, size: str, digest: str, left_out: bool) -> str:
    """Return what is wrong with a line of a manifest, empty if nothing is."""
    parts = PurePosixPath(path).parts
    if "\\" in path:
        return "backslash in the path: write / instead"
    if not left_out and (
        len(parts) < 3 or parts[0] not in (*SPLITS, "test") or ".." in parts or path[0] == "/"
    ):
        return "no path of an image"
    if not is_image(path) and PurePosixPath(path).suffix.lower() in HEIC and not READS_HEIC:
        return "HEIC: pip install pillow-heif"
    if not is_image(path) and not left_out:
        return "hidden, or of a format that is not read"
    if not (size.isascii() and size.isdecimal()):
        return "bytes is no number"
    if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
        return "sha256 is not 64 hexadecimal digits"
    return ""


def count_images(manifest: Manifest) -> dict[str, int]:
    """Count the images by split, and by split and class, without those to test on.

    >>> manifest = {f"{name}.jpg": Entry(9, "c0") for name in ("train/a/1", "val/a/2", "val/b/3")}
    >>> count_images(manifest)
    {'images': 3, 'train': 1, 'train_a': 1, 'val': 2, 'val_a': 1, 'val_b': 1}
    """
    counts: Counter[str] = Counter()
    for name in manifest:
        split, label, _ = name.split("/", 2)
        if split in SPLITS:
            counts.update(["images", split, f"{split}_{label}"])
    return dict(sorted(counts.items()))


def find_quality_issues(hashes: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what makes a comparison on these images less reliable, by kind, the worst first.

    `hashes` has the perceptual hash of each image by its path.

    >>> hashes = {"train/a/1.jpg": "c0" * 8, "val/a/2.jpg": "c0" * 8, "val/a/3.jpg": "f1" * 8}
    >>> find_quality_issues(hashes)
    {'near-duplicates in two splits': ['train/a/1.jpg, val/a/2.jpg'], 'a class of one image': \
['train/a']}
    """
    issues: dict[str, list[str]] = {
        "near-duplicates in two splits": [],
        "near-duplicates in two classes": [],
        "a class of one image": [],
        "near-duplicates": [],
    }
    names = sorted(hashes)
    groups: dict[int, list[str]] = defaultdict(list)
    for name, group in zip(names, near_duplicate_groups([hashes[n] for n in names]), strict=True):
        groups[group].append(name)
    for group in groups.values():
        if len(group) > 1:
            splits, labels, _ = map(set, zip(*(name.split("/", 2) for name in group), strict=True))
            kind = " in two splits" if len(splits) > 1 else " in two classes" * (len(labels) > 1)
            more = f" and {len(group) - 2} more" if len(group) > 2 else ""
            issues[f"near-duplicates{kind}"].append(", ".join(group[:2]) + more)
    class_sizes = Counter("/".join(name.split("/")[:2]) for name in names)
    issues["a class of one image"] = [name for name, size in class_sizes.items() if size == 1]
    return {kind: lines for kind, lines in issues.items() if lines}


def print_crop_warning(facts: Iterable[Facts]) -> None:
    """Say so if the centre crop discards more than a third of more than a tenth of the images."""
    sizes = [sorted((one.width, one.height)) for one in facts]
    long = sum(2 * longer > 3 * shorter for shorter, longer in sizes)
    if long > len(sizes) / 10:
        print(
            f"Of {long:,} of {len(sizes):,} images the centre crop discards more than a third.\n"
            "To let networks see all of them, write into params.yaml, under image: fit: pad "
            "(or squash)"
        )


def print_classes(manifest: Manifest) -> None:
    """Print the number of images by class and split, and the share of the largest class."""
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for name in sorted(manifest):
        split, label, _ = name.split("/", 2)
        sizes[label].update([split])
    splits = [*SPLITS, *["test"] * any(size["test"] for size in sizes.values())]
    ranked = sorted(sizes, key=lambda label: -sizes[label].total())
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("class", *splits, "all", "share"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for label in ranked[:MOST_CLASSES]:
        size = sizes[label].total()
        cells = [*(sizes[label][split] for split in splits), size]
        table.add_row(Text(label), *map(str, cells), f"{size / len(manifest):.1%}")
    if len(ranked) > MOST_CLASSES:
        table.add_row(f"… and {len(ranked) - MOST_CLASSES} more")
    console.print(table)
    largest = max(sizes, key=lambda label: sizes[label]["val"])
    share = sizes[largest]["val"] / sum(size["val"] for size in sizes.values())
    console.print(
        f"{len(sizes)} classes. Always answering {largest}, the largest there, would be right for "
        f"{share:.1%} of the validation images."
    )
