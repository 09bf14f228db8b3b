"""Tasks made of image data sets: which images they hold, their labels, their scale."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from evomal_paper.datasets.catalogue import DATASETS, SPLIT, MissingDataError
from evomal_paper.experiments.image_tasks import image_task, image_tasks


@pytest.fixture
def coloured(monkeypatch):
    """A data set of small coloured images under the name of CIFAR-10, and its arrays."""
    rng = np.random.default_rng(0)
    arrays = tuple(
        array
        for rows in (200, 60)
        for array in (rng.integers(0, 256, (rows, 4, 5, 3)).astype(np.uint8), np.arange(rows) % 10)
    )
    fake = replace(DATASETS["cifar10"], builtin=lambda: arrays, conform=lambda *arrays: arrays, content=None)
    monkeypatch.setitem(DATASETS, "cifar10", fake)
    assert fake.parts == SPLIT
    return arrays


def test_digits_are_split_in_order_and_enlarged_twice():
    task = image_task("digits")
    raw = load_digits()
    assert {name: len(x) for name, (x, _) in task.parts().items()} == {"train": 1437, "test": 360}
    assert task.features == (1, 16, 16)
    assert torch.equal(task.test[1], torch.from_numpy(raw.target[1437:]))
    quarters = torch.nn.functional.avg_pool2d(task.test[0], 2)[:, 0]
    assert torch.equal(quarters[:, 0, 0], task.test[0][:, 0, 1, 1])
    expected = (raw.images[1437:] - raw.images[:1437].mean()) / raw.images[:1437].std()
    torch.testing.assert_close(quarters, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-5)


def test_each_task_holds_its_classes_alone_numbered_in_the_order_given(coloured):
    x_train, y_train, x_test, y_test = coloured
    pair, five = image_tasks("cifar10", [(7, 2), (0, 9, 4, 3, 5)])
    assert (pair.kind, five.kind) == ("binary", "multiclass")
    assert pair.name == "cifar10: horse, bird"
    scale = x_train.mean((0, 1, 2)), x_train.std((0, 1, 2))
    for task, classes in ((pair, (7, 2)), (five, (0, 9, 4, 3, 5))):
        for split, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
            rows = [row for row in range(len(y)) if y[row] in classes]
            found_x, found_y = task.parts()[split]
            wanted = ((x[rows] - scale[0]) / scale[1]).transpose(0, 3, 1, 2)
            torch.testing.assert_close(found_x, torch.from_numpy(wanted).float(), rtol=1e-4, atol=1e-5)
            assert found_y.flatten().tolist() == [classes.index(y[row]) for row in rows]
    assert pair.train[1].shape == (40, 1)
    assert pair.train[1].is_floating_point()
    assert five.train[1].dtype == torch.int64
    assert five.train[0].is_contiguous()


def test_validation_takes_the_same_share_of_every_class_and_no_image_twice(coloured):
    plain, split = image_task("cifar10"), image_task("cifar10", validation=0.25)
    assert torch.bincount(split.validation[1]).tolist() == [5] * 10
    assert torch.bincount(split.train[1]).tolist() == [15] * 10
    joined = torch.cat([split.train[0], split.validation[0]])
    order = [images.flatten(1).sum(1).sort().values for images in (joined, plain.train[0])]
    torch.testing.assert_close(*order)
    assert torch.equal(split.validation[0], image_task("cifar10", validation=0.25).validation[0])
    assert plain.validation is None


def test_a_data_set_that_is_not_at_hand_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="evomal data mnist --download"):
        image_task("mnist", (0, 1))


@pytest.mark.parametrize(
    ("name", "mean", "spread"),
    [  # as torchvision's users normalise these data sets, after division by 255
        ("mnist", [0.1307], [0.3081]),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_the_scale_of_the_real_images_is_the_usual_one(name, mean, spread):
    try:
        arrays = DATASETS[name].load()
    except MissingDataError as missing:
        pytest.skip(str(missing))
    rows = np.isin(arrays[3], (0, 1))
    pixels = torch.from_numpy(arrays[2][rows] / 255.0).reshape(rows.sum(), *arrays[2].shape[1:3], -1)
    expected = ((pixels - torch.tensor(mean)) / torch.tensor(spread)).movedim(3, 1).float()
    torch.testing.assert_close(image_task(name, (0, 1)).test[0], expected, rtol=1e-3, atol=1e-3)
