"""Write the manifest of a user's folder: read all images, leave copies out, split the others."""

import contextlib
import hashlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pandas as pd

from headswap.data import manifest
from headswap.data.listing import Listing
from headswap.data.verify import read_facts
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import SPLITS
from headswap.images.folds import column_sums, count_classes, divide, join_groups, rank
from headswap.images.near_duplicates import near_duplicate_groups, near_duplicate_pairs
from headswap.io import StrPath, output_path, read_bytes, write_csv

PARTS = ("val", "test", "train")  # in the order in which they are filled; the last has the rest
NEEDS = (2, 1, 4)  # how much it matters that a class is in each at all


def write_manifest(
    listing: Listing,
    path: StrPath,
    val: float | None = None,
    seed: int = 0,
    drop_duplicates: bool = False,
    test: float | None = None,
) -> manifest.Manifest:
    """Read all images of a user's folder; write its manifest, and return the images to use.

    `val` and `test` are shares of the images, where the folder does not say which these are. If
    `val` is None and `path` is an older manifest, its images keep their splits and groups, and
    others are split by its shares. If it left near-duplicates out, this does, too.
    """
    target = output_path(path, "--output", ".csv", mark=",".join(manifest.COLUMNS))
    listed: manifest.Manifest = {}
    with contextlib.suppress(UserError):  # there is none, or one with mistakes
        listed = manifest.read_manifest(path)
    old = manifest.used_images(listed) if val is None else {}
    folder, table = printable(listing.folder), listing.photographs
    shares, ready = {"val": val, "test": test}, {*table["split"]}
    if twice := [name for name in ready if shares.get(name) is not None]:
        text = f"{folder} is split already; it has {twice[0]}/."
        raise UserError(f"{text}\nRun the same without --{twice[0]}.")
    if val is None and "val" not in ready and not old:
        text = f"{folder} has classes, but no photographs to validate on."
        raise UserError(f"{text}\nTo split them: headswap manifest {folder} --val 0.3 --seed 0")
    remedy = "Replace or remove them, then run the same command again."
    table = table.join(read_facts({one: listing.files[one] for one in table.index}, folder, remedy))
    wide = table[["width", "height"]].max(axis=1) > 1.5 * table[["width", "height"]].min(axis=1)
    if wide.mean() > 0.1:
        some = f"{wide.sum():,} of {len(table):,} images"
        print(f"Of {some} the centre crop discards more than a third.")
        print("To let networks see all, write into params.yaml, under image: fit: pad (or squash)")
    again = any(entry.left_out.startswith("near-duplicate") for entry in listed.values())
    copies = _find_copies(listing, table) if drop_duplicates or again else {}
    used = table.drop(list(copies))
    used["split"], used["group"] = _split(listing, used, old, shares, seed)
    if table["group"].any():
        for at, index in used.groupby("split").groups.items():
            names = sorted({*map(printable, used["group"][index])} - {""})
            alone = int((used["group"][index] == "").sum())
            besides = f", and {alone} photographs alone" if alone else ""
            listing.notes.append(f"Groups in {at} ({len(names)}{besides}):\n{bulleted(names, 10)}")
            if at == "val" and len(names) + alone < 10:
                listing.notes.append("Intervals will be wide, of one group none: set dataset.folds")
    where = folder + " without near-duplicates" * bool(copies)
    manifest.check_classes(zip(used["split"], used["label"], strict=True), where)
    table["split"] = used["split"].reindex(table.index).fillna(table["split"].replace("", "train"))
    names = table["split"] + "/" + table["label"] + "/" + table["name"]
    listing.hashes = dict(zip(names[used.index], used["phash"], strict=True))
    rows = used[["bytes", "sha256", "group"]].itertuples(index=False)
    images = {name: manifest.Entry(*row) for name, row in zip(listing.hashes, rows, strict=True)}
    entries = {**images}
    for one, other in copies.items():
        why = f"near-duplicate of {names[other] if other in used.index else other}"
        size, digest = table.loc[one, ["bytes", "sha256"]]
        entries[names[one]] = manifest.Entry(size, digest, "", why)
    for one, why in listing.unused.items():
        content = read_bytes(listing.files[one])
        digest = hashlib.sha256(content).hexdigest()
        entries[printable(one)] = manifest.Entry(len(content), digest, "", why)
    lines = pd.DataFrame(entries.values(), list(entries)).sort_index()
    lines = lines.drop(columns=[name for name in ("group", "left_out") if not lines[name].any()])
    write_csv(target, (*manifest.COLUMNS, *lines.columns[2:]), lines.itertuples())
    return images


def _find_copies(listing: Listing, table: pd.DataFrame) -> dict[str, str]:
    """Return copies, with what they copy: all but a class's first; both if of two classes."""
    labels, found = table["label"].to_dict(), near_duplicate_pairs(table["phash"].tolist())
    pairs = [(table.index[one], table.index[other]) for one, other, _ in found]
    wrong = [pair for pair in pairs if labels[pair[0]] != labels[pair[1]]]
    copies = {one: other for pair in wrong for one, other in (pair, pair[::-1])}
    for one, other in pairs:
        if one not in copies:
            copies.setdefault(other, one)
    for name, other in sorted(copies.items()):
        in_two = " in two classes, of which one is wrong" * (labels[name] != labels[other])
        lines = listing.left_out.setdefault(f"near-duplicates{in_two}", [])
        lines.append(f"{name}, of {other}")
    return copies


def _split(
    listing: Listing,
    used: pd.DataFrame,
    old: manifest.Manifest,
    shares: dict[str, float | None],
    seed: int,
) -> tuple[list[str], list[str]]:
    """Return the splits and the names of the groups of images; notes say what groups did."""
    known = {entry.sha256: (name.split("/")[0], entry.group) for name, entry in old.items()}
    has_val, is_grouped, test = "val" in {*used["split"]}, used["group"].any(), shares["test"]
    rows = []
    for label, digest, group, given in used[["label", "sha256", "group", "split"]].to_numpy():
        split, old_group = known.get(digest, ("", ""))
        if given and (given != "train" or (has_val and not test)):
            split = given
        elif test and split != "val":
            split = ""
        rows.append((label, digest, group if is_grouped else old_group, split))
    items = pd.DataFrame(rows, columns=["label", "sha256", "group", "split"])
    same: list[Hashable] = near_duplicate_groups(used["phash"].tolist()).tolist()
    given, splits = items["group"].tolist(), items["split"].tolist()
    missed: list[str] = []
    if not all(splits):
        ready, before = {*listing.photographs["split"]}, [name.split("/")[0] for name in old]
        of_val, of_test = (
            share or 0 if share is not None or at in ready else before.count(at) / max(1, len(old))
            for at, share in shares.items()
        )
        try:
            splits, missed = split_items(items, same, of_val, of_test, seed)
        except UserError:
            splits, missed = split_items(items, [*items["sha256"]], of_val, of_test, seed)
            note = "Near-duplicates are in several splits: a class could not be validated on else."
            listing.notes.append(note)
    groups = name_groups(items, [*zip(same, splits, strict=True)])
    if near := sum(bool(group) and group != of for group, of in zip(groups, given, strict=True)):
        note = f"{near} photographs count as of one group with others, some near-identical"
        listing.notes.append(f"{note} (--drop-duplicates would leave copies out)")
    if moved := sum(was not in ("", at) for was, at in zip(items["split"], splits, strict=True)):
        listing.notes.append(f"{moved} photographs moved to the split of their group")
    counts = pd.crosstab(pd.Series(given), pd.Series(splits)).drop("", errors="ignore")
    cut = [
        f"{group}: {', '.join(f'{count} in {at}' for at, count in row.items() if count)}"
        for group, row in counts[(counts > 0).sum(axis=1) > 1].iterrows()
    ]
    high = f"These splits cut {len(cut)} of {len(counts)} groups, so that accuracies are too high"
    off = "Groups stay whole, so that shares are not as wanted"
    pairs = ((high, cut), (off, missed))
    listing.notes += [f"{note}:\n{bulleted(lines, 10)}" for note, lines in pairs if lines]
    return splits, groups


def split_items(
    items: pd.DataFrame, same: Sequence[Hashable], val: float, test: float = 0, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Return the split of each photograph, and a line for each share of a class that is missed.

    Columns are ``label``, ``sha256``, ``group`` (empty: its own), and ``split``, which is kept
    unless it is empty, or photographs of the same group are in another one. Those with the `same`
    value, what they are copies of, count as of one group. The order of groups depends on content
    and seed alone, so that a further photograph moves few others; a test set is taken from what
    would be trained on. If `val` is 0, nothing joins those known to be in val.
    """
    ids = join_groups(items["group"].tolist(), same)
    labels, classes = np.unique(items["label"].tolist(), return_inverse=True)
    counts = count_classes(ids, classes)
    ranks = items["sha256"].map(lambda digest: rank(digest, seed)).groupby(ids).min().tolist()
    known = items["split"].mask(items["split"] == "").groupby(ids).agg(["nunique", "first"])
    fixed = [PARTS.index(at) if count == 1 else -1 for count, at in known.itertuples(index=False)]
    # Of each class one at least, first in train, then in val.
    size, ready = column_sums(counts), column_sums(counts[np.array(fixed) == 0])
    room = np.minimum(size - 1, np.maximum(1, size - 1 - (test > 0)))
    of_val = np.minimum(np.maximum(1, np.round(val * size)), room) if val else ready
    of_test = np.minimum(np.maximum(1, np.round(test * size)), size - 1 - of_val) * (test > 0)
    targets = np.array([of_val, of_test, size - of_val - of_test]).astype(int)
    parts = divide(counts, targets, NEEDS, ranks, fixed)
    reached = np.array([column_sums(counts[parts == part]) for part in range(len(PARTS))])
    if lacking := np.flatnonzero((reached[[0, 2]] == 0).any(axis=0)).tolist():
        groups = column_sums(counts > 0)
        lines = [f"{labels[c]} (images: {size[c]}, groups: {groups[c]})" for c in lacking]
        text = "Copies and groups stay together, so these classes cannot be in both train and val"
        remedy = "Add images of other groups to them, or leave them out; then run the same again."
        raise UserError(f"{text}:\n{bulleted(lines)}\n{remedy}")
    off = np.abs(reached - targets)[:2] / size
    missed = [
        f"{PARTS[part]}: {reached[part, c] / size[c]:.1%} of {labels[c]} "
        f"(wanted {(val, test)[part]:.1%})"
        for part, c in np.argwhere(off > 0)[np.argsort(-off[off > 0], kind="stable")]
    ]
    return [PARTS[parts[group]] for group in ids], missed


def name_groups(items: pd.DataFrame, same: Sequence[Hashable]) -> list[str]:
    """Return the group of each photograph: given, else a digest, empty where it is alone."""
    groups = items.groupby(join_groups(items["group"].tolist(), same))
    given = items["group"].where(items["group"] != "").groupby(groups.ngroup()).transform("min")
    digests = groups["sha256"].transform("min").str[:16]
    return given.fillna(digests.where(groups["sha256"].transform("size") > 1, "")).tolist()


def print_classes(names: Iterable[str]) -> None:
    """Print how many images each class has, by paths in the manifest, the 30 largest in full."""
    parts = pd.DataFrame([name.split("/")[:2] for name in names], columns=["split", "class"])
    table = pd.crosstab(parts["class"], parts["split"]).filter([*SPLITS, "test"])
    largest, share = table["val"].idxmax(), table["val"].max() / table["val"].sum()
    table["all"] = table.sum(axis=1)
    table["share"] = (table["all"] / len(parts)).map("{:.1%}".format)
    ranked = table.sort_values("all", ascending=False, kind="stable")
    print(ranked.head(30).rename_axis(index=None, columns=None).to_string())
    if len(ranked) > 30:
        print(f"… and {len(ranked) - 30} more")
    answer = f"{len(ranked)} classes. Always answering {largest}, the largest there"
    print(f"{answer}, would be right for {share:.1%} of the validation images.")
