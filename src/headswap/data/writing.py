"""Write the manifest of a user's folder: read all images, leave copies out, split the others."""

import contextlib
import hashlib
from collections.abc import Mapping
from os import PathLike

import pandas as pd

from headswap.data.listing import Listing
from headswap.data.manifest import (
    COLUMNS,
    Entry,
    Manifest,
    check_classes,
    read_manifest,
    used_images,
)
from headswap.data.splits import Item, name_groups, split_items
from headswap.data.verify import Facts, read_facts
from headswap.errors import UserError, bulleted, printable
from headswap.images.near_duplicates import near_duplicate_groups, near_duplicate_pairs
from headswap.io import output_path, read_bytes, write_csv


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
    _check_shares(listing, val, test, bool(old))
    facts = _read_images(listing)
    again = any(entry.left_out.startswith("near-duplicate") for entry in listed.values())
    copies = find_copies(listing, facts) if drop_duplicates or again else {}
    used = listing.photographs.drop(list(copies))
    items = _find_items(used, facts, old, test)
    hashes = [facts[path].phash for path in used.index]
    splits, groups = _split(listing, items, hashes, old, (val, test), seed)
    labels = used[["label", "name"]].itertuples()
    names = {
        path: f"{split}/{label}/{name}"
        for split, (path, label, name) in zip(splits, labels, strict=True)
    }
    rows = {
        names[path]: Entry(facts[path].bytes, facts[path].sha256, group)
        for path, group in zip(names, groups, strict=True)
    }
    where = printable(listing.folder) + " without near-duplicates" * bool(copies)
    check_classes((name.split("/")[:2] for name in rows), where)
    listing.hashes = {name: facts[path].phash for path, name in names.items()}
    images = dict(rows)
    for one, other in copies.items():
        label, name, _, split = listing.photographs.loc[one]
        why = f"near-duplicate of {names.get(other, other)}"
        entry = Entry(facts[one].bytes, facts[one].sha256, "", why)
        rows[f"{split or 'train'}/{label}/{name}"] = entry
    for one, why in listing.unused.items():
        content = read_bytes(listing.files[one])
        digest = hashlib.sha256(content).hexdigest()
        rows[printable(one)] = Entry(len(content), digest, "", why)
    table = pd.DataFrame(rows.values(), index=rows).sort_index()
    table = table[["size", "sha256", *(c for c in ("group", "left_out") if table[c].any())]]
    write_csv(target, (*COLUMNS, *table.columns[2:]), table.itertuples())
    return images


def _check_shares(listing: Listing, val: float | None, test: float | None, renewed: bool) -> None:
    folder, splits = printable(listing.folder), set(listing.photographs["split"])
    for name, share in (("val", val), ("test", test)):
        if share is not None and name in splits:
            raise UserError(
                f"{folder} is split already; it has {name}/.\nRun the same without --{name}."
            )
    if val is None and "val" not in splits and not renewed:
        raise UserError(
            f"{folder} has classes, but no photographs to validate on.\n"
            f"To split them: headswap manifest {folder} --val 0.3 --seed 0"
        )


def _read_images(listing: Listing) -> dict[str, Facts]:
    """Return the facts of a listing's images; a UserError names all that cannot be read."""
    facts, reasons = read_facts({path: listing.files[path] for path in listing.photographs.index})
    if reasons:
        lines = [f"{printable(listing.files[path])}: {why}" for path, why in reasons.items()]
        raise UserError(
            f"{printable(listing.folder)} has {len(reasons)} images that cannot be read:\n"
            f"{bulleted(lines, len(lines))}\n"
            "Replace or remove them, then run the same command again."
        )
    sides = [sorted((one.width, one.height)) for one in facts.values()]
    long = sum(2 * longer > 3 * shorter for shorter, longer in sides)
    if long > len(facts) / 10:
        print(
            f"Of {long:,} of {len(facts):,} images the centre crop discards more than a third.\n"
            "To let networks see all of them, write into params.yaml, under image: fit: pad "
            "(or squash)"
        )
    return facts


def find_copies(listing: Listing, facts: Mapping[str, Facts]) -> dict[str, str]:
    """Return the images to leave out as near-duplicates, each with one that it is a copy of.

    In one class the first in order of name is kept; of copies in two classes none is, because one
    of their classes is wrong.
    """
    labels = listing.photographs["label"].to_dict()
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
        in_two = " in two classes, of which one is wrong" * (labels[name] != labels[other])
        listing.left_out[f"near-duplicates{in_two}"].append(f"{name}, of {other}")
    return copies


def _find_items(
    used: pd.DataFrame, facts: Mapping[str, Facts], old: Manifest, test: float | None
) -> list[Item]:
    """Return what decides where images go; the split is empty where that is to be drawn."""
    known = {entry.sha256: (name.split("/")[0], entry.group) for name, entry in old.items()}
    is_grouped, has_val = used["group"].any(), "val" in set(used["split"])
    items = []
    for path, label, given_group, given in used[["label", "group", "split"]].itertuples():
        digest = facts[path].sha256
        split, group = known.get(digest, ("", ""))
        if given and (given != "train" or (has_val and not test)):
            split = given
        elif test and split != "val":
            split = ""
        items.append(Item(label, digest, given_group if is_grouped else group, split))
    return items


def _split(
    listing: Listing,
    items: list[Item],
    hashes: list[str],
    old: Manifest,
    wanted: tuple[float | None, float | None],
    seed: int,
) -> tuple[list[str], list[str]]:
    """Return the splits and the names of the groups of images; notes say what groups did."""
    same = near_duplicate_groups(hashes).tolist()
    given, splits = [one.group for one in items], [one.split for one in items]
    missed: list[str] = []
    if not all(splits):
        shares = dict(zip(("val", "test"), wanted, strict=True))
        for name in shares.keys() - set(listing.photographs["split"]):
            if shares[name] is None and old:
                shares[name] = sum(path.startswith(f"{name}/") for path in old) / len(old)
        of_val, of_test = shares["val"] or 0, shares["test"] or 0
        try:
            splits, missed = split_items(items, same, of_val, of_test, seed)
        except UserError:
            digests = [one.sha256 for one in items]
            splits, missed = split_items(items, digests, of_val, of_test, seed)
            listing.notes.append(
                "Near-duplicates are in several splits: a class could not be validated on else."
            )
    groups = name_groups(items, list(zip(same, splits, strict=True)))
    if near := sum(bool(group) and group != of for group, of in zip(groups, given, strict=True)):
        listing.notes.append(f"{near} near-identical photographs count as of one group with others")
    if moved := sum(one.split not in ("", at) for one, at in zip(items, splits, strict=True)):
        listing.notes.append(f"{moved} photographs moved to the split of their group")
    counts = pd.crosstab(pd.Series(given), pd.Series(splits)).drop("", errors="ignore")
    cut = counts[(counts > 0).sum(axis=1) > 1]
    if len(cut):
        lines = [
            f"{group}: {', '.join(f'{count} in {at}' for at, count in row.items() if count)}"
            for group, row in cut.iterrows()
        ]
        listing.notes.append(
            f"These splits cut {len(cut)} of {len(counts)} groups, so that accuracies will be too "
            f"high:\n{bulleted(lines, 10)}"
        )
    if missed:
        listing.notes.append(
            f"Groups stay whole, so that shares are not as wanted:\n{bulleted(missed, 10)}"
        )
    return splits, groups
