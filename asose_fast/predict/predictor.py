"""A predictor prepares image files as the training did, and asks the network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from asose_fast.bounds import Bounds, check_value
from asose_fast.data.errors import DataError
from asose_fast.data.images import FileImages, read_headers
from asose_fast.data.transform import Transform
from asose_fast.predict.files import find
from asose_fast.predict.predictions import Predictions
from asose_fast.store.networks import load


class Predictor:
    """This is a network that takes image files.

    `Predictor("run").predict(["photos", "one.jpg"])` gives the classes and probabilities of these images.

    Attributes:
        classes: the names that the network tells apart.
        notes: what a user should know of how the images of the last `predict` were read, in a sentence each.
    """

    def __init__(self, network: str | Path) -> None:
        """Takes a run folder, or a file that `asose-fast export` wrote. A Python file is run, as an import would.

        Raises:
            FileNotFoundError: there is none, or the folder holds no finished run.
            ValueError: it is damaged or something else; the message names the file.
        """
        loaded = load(network)
        self._scores, self._prepared = loaded.scores, loaded.prepared
        self.classes = loaded.prepared.classes
        self.notes: list[str] = []

    @torch.no_grad()
    def predict(self, images: str | Path | Iterable[str | Path], *, batch_size: int = 64) -> Predictions:
        """Returns what the network says of images, which are prepared as the test images of the run.

        They are turned upright as EXIF says and converted to the channels of the network. The shorter side is resized
        to the side of the training and the centre cropped. Of values from 0 to 1 the mean is subtracted, and they are
        divided by the standard deviation.

        Args:
            images: a file, a folder, or several of either. Folders are searched to any depth, and files of which no
                image is read are left out. An image in a folder that is named after a class gets that label.
            batch_size: so many images are computed together.

        Raises:
            DataNotFoundError: a file or folder is not there, or a folder has no images.
            DataError: images are broken; all are named.
        """
        check_value("batch_size", batch_size, int, Bounds(least=1, most=10**6))
        found, self.notes = find([images] if isinstance(images, (str, Path)) else images, self.classes)
        paths, prepared = [image.path for image in found], self._prepared
        self.notes += self._changed(paths)
        files = FileImages(paths, prepared.mode, prepared.image_size, resize=True)
        normalise = Transform.normalising(prepared.mean, prepared.std, 0, False, torch.device("cpu"))
        scores = []
        for numbers in torch.arange(len(files)).split(batch_size):
            try:
                pixels = files.read(numbers.tolist())
            except DataError:
                files.require_whole()
                raise
            scores.append(self._scores(normalise(pixels, torch.arange(len(pixels)), None)).float())
        labels = tuple(image.label for image in found)
        return Predictions(self.classes, tuple(paths), labels, torch.cat(scores).softmax(1))

    def _changed(self, paths: list[str]) -> list[str]:
        """Says how many images are not of the size or colour of the training. Raises DataError."""
        headers, side = read_headers(paths), self._prepared.image_size
        notes = []
        if sized := sum(header.size != (side, side) for header in headers):
            notes.append(f"resized and cropped to {side}x{side}, the network's size: {sized} of {len(paths)} images")
        grey = self._prepared.mode == "L"
        if grey and (coloured := sum(header.mode not in ("1", "L") for header in headers)):
            notes.append(f"seen in grey, as the network was trained: {coloured} of {len(paths)} images")
        return notes
