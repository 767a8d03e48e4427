"""This walk finds what lies in a folder of images. It leaves out hidden files, those of the system and those that are
no images."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from asose_fast.data import decode
from asose_fast.data.errors import DataError

# Of Synology, macOS, Windows and Linux, in lower case. Other hidden names begin with a dot.
_SYSTEM = frozenset(
    (
        *("@eadir", "#recycle", "__macosx", "lost+found"),
        *("$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"),
    )
)
_SHOWN = 3


@dataclasses.dataclass
class LeftOut:
    """These were met and not read: hidden folders, files that are named like images but hidden, links that lead nowhere
    and other files. It also knows by which links something was read twice."""

    hidden: set[str] = dataclasses.field(default_factory=set)
    nowhere: set[str] = dataclasses.field(default_factory=set)
    others: Counter[str] = dataclasses.field(default_factory=Counter)
    """Files are counted by extension in lower case, with its dot."""
    _folders: dict[str, str] = dataclasses.field(default_factory=dict)
    _linked: dict[str, str] = dataclasses.field(default_factory=dict)
    _twice: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def read_folder(self, real: str, path: str) -> None:
        """Notes that a folder is read under a path. `real` is where it lies when all links are followed."""
        if (first := self._folders.setdefault(real, path)) != path:
            self._twice.append((first, path))

    def read_link(self, path: str) -> None:
        """Notes that an image is read by a link to it."""
        if (first := self._linked.setdefault(os.path.realpath(path), path)) != path:
            self._twice.append((first, path))

    def _read_twice(self) -> list[tuple[str, str]]:
        """Returns the two names of each folder or image that has two."""
        found = list(self._twice)
        for real, path in self._linked.items():
            folder, name = os.path.split(real)
            if folder in self._folders:
                found.append((os.path.join(self._folders[folder], name), path))
        return found

    def notes(self, root: Path) -> Iterator[str]:
        """Says what a user should know, in a sentence each."""

        def below(path: str) -> str:
            return os.path.relpath(path, root)

        if self.hidden:
            yield f"{root}: hidden and system files are skipped: {_some(map(below, self.hidden))}"
        if self.nowhere:
            yield f"{root}: links that lead nowhere are skipped: {_some(map(below, self.nowhere))}"
        if twice := self._read_twice():
            names = _some(" and ".join(map(below, pair)) for pair in twice)
            yield (
                f"{root}: by links the same images are read twice, as {names}: those of one class or split should be "
                "in no other"
            )
        if self.others:
            yield f"{root}: files of which no image is read are left out: {by_extension(self.others)}"


def _some(names: Iterable[str]) -> str:
    """Names the first few of them, and says how many there are besides."""
    ordered = sorted(names)
    return ", ".join(ordered[:_SHOWN]) + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")


def by_extension(counts: Counter[str]) -> str:
    """Words the counts, as in "12 .heic, 3 without an extension"."""
    return ", ".join(f"{count} {extension or 'without an extension'}" for extension, count in counts.most_common())


def folders_in(folder: Path, left_out: LeftOut) -> list[str]:
    """Returns the names of the folders in a folder, sorted."""
    return sorted(entry.name for entry in _visible(str(folder), left_out) if _is_folder(entry))


def holds_images(folder: Path) -> bool:
    """Says whether images lie in the folder itself."""
    return any(not _is_folder(entry) and _is_image(entry) for entry in _visible(str(folder), LeftOut()))


def images_below(folder: Path, left_out: LeftOut) -> list[str]:
    """Returns all images below a folder, links followed, in the order of torchvision's ImageFolder.

    Raises DataError for a link that leads back: it would have no end.
    """
    return [path for _, paths in sorted(_walk(str(folder), [], left_out)) for path in paths]


def _walk(folder: str, above: list[str], left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Yields a folder and those below it, each with the paths of its images. `above` are the folders that it is in."""
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"the link {folder} leads back to {real}, which it is in: remove it")
    left_out.read_folder(real, folder)
    folders, images = [], []
    for entry in _visible(folder, left_out):
        if _is_folder(entry):
            folders.append(entry.path)
        elif _is_image(entry):
            images.append(entry.path)
            if entry.is_symlink():
                left_out.read_link(entry.path)
        else:
            left_out.others[_extension(entry.name)] += 1
    yield folder, sorted(images)
    for below in folders:
        yield from _walk(below, [*above, real], left_out)


def _visible(folder: str, left_out: LeftOut) -> Iterator[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    for entry in entries:
        if entry.is_symlink() and not os.path.exists(entry.path) and _extension(entry.name) not in decode.extensions():
            left_out.nowhere.add(entry.path)
        elif not (entry.name.startswith(".") or entry.name.lower() in _SYSTEM):
            yield entry
        elif _is_folder(entry) or _extension(entry.name) in decode.extensions():
            left_out.hidden.add(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Asks the file system about links only; unlike `entry.is_dir()`, it takes one that leads nowhere for no folder.
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Tells an image by the extension, and a file that has none by its content."""
    extension = _extension(entry.name)
    return extension in decode.extensions() or (
        not extension and os.path.isfile(entry.path) and decode.is_image(entry.path)
    )


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()
