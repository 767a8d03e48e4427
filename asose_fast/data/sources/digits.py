"""scikit-learn's handwritten digits are 1,797 real images of 8x8, in the package itself."""

from __future__ import annotations

import torch

from asose_fast.data.sources.source import Source, apart_for_test, open_array


def digits() -> Source:
    """Returns the source. The set has no test images of its own, so 20 % of each class serve, always the same."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images) * (255 / 16)  # values are 0 to 16
    labels = torch.from_numpy(bunch.target).long()
    classes = tuple(str(name) for name in bunch.target_names)
    train, test = apart_for_test(labels, classes)
    # A mirrored 2 or 7 is no digit.
    return Source(classes, labels, train, test, open_array(grey.round().byte()[..., None]), mirror=False)
