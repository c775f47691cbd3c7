"""Fetch the archive of images: download it, pack a local folder, or draw the images."""

import zipfile
from os import PathLike
from pathlib import Path

from headswap.data.manifest import read_manifest
from headswap.data.synthetic import draw_archive
from headswap.data.verify import archive_fits
from headswap.download import download_file, is_address
from headswap.errors import UserError
from headswap.images.folders import images_in
from headswap.io import atomic_write, read_bytes
from headswap.params import GENERATED, Dataset
from headswap.paths import ARCHIVE


def check_dataset(dataset: Dataset) -> None:
    """Check that the local files which the parameters name are there.

    Raises
    ------
    UserError
        If the archive or folder is missing, or the manifest is missing or wrong.
    """
    if dataset.url == GENERATED:
        return
    if not is_address(dataset.url) and not Path(dataset.url).expanduser().exists():
        raise UserError(
            f"dataset.url: there is no {dataset.url} here; allowed are an address, a local zip, "
            f"a local folder with train/ and val/ in it, and {GENERATED}.\n"
            "Correct params.yaml, then run: headswap check"
        )
    read_manifest(dataset.manifest)


def fetch_archive(dataset: Dataset, archive: str | PathLike[str] = ARCHIVE) -> str | None:
    """Write the archive of images.

    An archive that is there already and holds the images of the manifest is not downloaded again,
    so that neither an edit of this code nor a new address makes a download necessary. A local zip
    or folder is copied each time: it is cheap, and the images may have changed.

    Parameters
    ----------
    dataset
        Its ``url`` is an address, a local zip, a local folder with ``train`` and ``val`` in it,
        or ``generated``.
    archive
        The zip to write.

    Returns
    -------
    str or None
        Where the archive came from; None if it was there already.

    Raises
    ------
    UserError
        If there is no zip at the address, in the mirror or at the local path.
    """
    if dataset.url == GENERATED:
        with atomic_write(archive) as temporary:
            draw_archive(temporary)
        return GENERATED
    folder = Path(dataset.url).expanduser()
    if folder.is_dir():
        with atomic_write(archive) as temporary, zipfile.ZipFile(temporary, "w") as file:
            for name, path in images_in(folder).items():
                file.writestr(zipfile.ZipInfo(name), read_bytes(path))
        return str(folder)
    exists = is_address(dataset.url) and Path(archive).exists()
    if exists and archive_fits(archive, read_manifest(dataset.manifest)):
        return None
    return download_file(dataset.url, archive, _check_zip)


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise ValueError("not a zip archive, or an incomplete one")
