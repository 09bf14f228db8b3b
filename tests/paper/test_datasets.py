"""Data sets: content decides, nothing half-written stays, and no test reaches beyond this machine."""

import gc
import gzip
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import warnings
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from evomal_paper import cli
from evomal_paper.datasets import catalogue, readers
from evomal_paper.datasets import torchvision as lazily
from evomal_paper.datasets.catalogue import (
    DATASETS,
    SPLIT,
    AlteredDataError,
    DownloadError,
    MissingDataError,
    content_hash,
    data_folder,
)
from evomal_paper.datasets.torchvision import import_torchvision
from evomal_paper.experiments.catalogue import EXPERIMENTS

REAL = data_folder()  # before any test points EVOMAL_DATA elsewhere
DOWNLOADABLE = [name for name, dataset in DATASETS.items() if dataset.download is not None]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty data folder of the test's own."""
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# --- small stand-ins in the real containers ------------------------------------------------------------


def small_images(shape=(28, 28)):
    rng = np.random.default_rng(0)
    x_train, x_test = (rng.integers(0, 256, (rows, *shape), dtype=np.uint8) for rows in (20, 10))
    return x_train, np.arange(20) % 10, x_test, np.arange(10)


def small(name: str, arrays, shape=(28, 28)):
    """A data set of images with other, smaller arrays."""
    conform = partial(readers.images, rows=(20, 10), shape=shape, classes=10)
    return replace(DATASETS[name], conform=conform, content=content_hash(*arrays))


def npz_bytes(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def idx_files(arrays) -> dict[str, bytes]:
    """MNIST's four files (LeCun's format: two zero bytes, type 8, dimensions, sizes, bytes)."""
    names = (
        *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    )
    sizes = {name: np.array(array.shape, ">u4").tobytes() for name, array in zip(names, arrays, strict=True)}
    return {
        name: bytes([0, 0, 8, array.ndim]) + sizes[name] + array.astype(np.uint8).tobytes()
        for name, array in zip(names, arrays, strict=True)
    }


def cifar_batches(arrays) -> dict[str, bytes]:
    """CIFAR-10's files: pickled rows of 3×32×32 bytes; the training images in five batches."""
    x_train, y_train, x_test, y_test = arrays

    def batch(x, y) -> bytes:
        return pickle.dumps({"data": x.transpose(0, 3, 1, 2).reshape(len(x), -1), "labels": y.tolist()})

    parts = {
        f"data_batch_{i + 1}": batch(x_train[4 * i : 4 * i + 4], y_train[4 * i : 4 * i + 4]) for i in range(5)
    }
    return {
        **parts,
        "test_batch": batch(x_test, y_test),
        "batches.meta": pickle.dumps({"label_names": list("abcdefghij")}),
    }


def tar_gz(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def cifar(monkeypatch):
    """CIFAR-10 of 20 and 10 images: the data set, its files, and its archive; torchvision expects their sums."""
    arrays = small_images((32, 32, 3))
    files = cifar_batches(arrays)
    archive = tar_gz({f"cifar-10-batches-py/{name}": content for name, content in files.items()})
    source = import_torchvision().datasets.CIFAR10
    monkeypatch.setattr(
        source, "train_list", [[f"data_batch_{i}", md5(files[f"data_batch_{i}"])] for i in range(1, 6)]
    )
    monkeypatch.setattr(source, "test_list", [["test_batch", md5(files["test_batch"])]])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5(files["batches.meta"])})
    monkeypatch.setattr(source, "tgz_md5", md5(archive))
    return small("cifar10", arrays, (32, 32, 3)), arrays, files, archive


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# --- content -------------------------------------------------------------------------------------------


def test_hash_tells_values_shapes_and_dtypes_apart():
    x = np.arange(6.0)
    hashes = {content_hash(a) for a in (x, x.reshape(2, 3), x.astype(np.float32), x[::-1], x[:5])}
    assert len(hashes) == 5
    assert content_hash(x[::2]) == content_hash(x[::2].copy())


def test_what_comes_with_scikit_learn_is_at_hand():
    from sklearn.datasets import load_diabetes, load_digits

    x, y = DATASETS["diabetes"].load()
    assert_same((x, y), [a.astype(np.float32) for a in load_diabetes(return_X_y=True, scaled=False)])
    x, y = DATASETS["digits"].load()
    assert x.dtype == np.uint8
    assert_same((x.reshape(len(x), -1), y), load_digits(return_X_y=True))


@pytest.mark.parametrize("name", ["boston", "california", "surname", "mnist", "cifar10"])
def test_real_data_where_it_is_at_hand(name, monkeypatch):
    monkeypatch.setenv("EVOMAL_DATA", str(REAL))
    try:
        arrays = DATASETS[name].load()
    except MissingDataError as error:
        pytest.skip(str(error))
    assert len(arrays) == len(DATASETS[name].parts)
    assert all(array.flags.writeable for array in arrays)
    if name == "surname":
        assert [len(array) for array in arrays[::2]] == [7680, 1640, 1660]
        unique = {pair for x, y in zip(arrays[::2], arrays[1::2], strict=True) for pair in zip(x, y, strict=True)}
        assert len(unique) == 9383
        assert DATASETS[name].classes[arrays[1][0]] == "Arabic"
    if name == "boston":
        assert arrays[1].mean() == pytest.approx(22.5328, abs=1e-4)  # the published mean of MEDV


def test_real_images_load_without_a_second_copy(monkeypatch):
    monkeypatch.setenv("EVOMAL_DATA", str(REAL))
    if not (REAL / "mnist.npz").exists():
        pytest.skip("mnist.npz is not at hand")
    tracemalloc.start()
    try:
        arrays = DATASETS["mnist"].load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * sum(array.nbytes for array in arrays)


def test_california_has_the_features_of_scikit_learn(tmp_path, folder):
    import joblib
    from sklearn.datasets import fetch_california_housing

    rng = np.random.default_rng(0)
    raw = rng.uniform(1, 100, (7, 9)).round(6)  # StatLib's columns: longitude, latitude, …, value
    text = "\n".join(",".join(f"{value:.6f}" for value in row) for row in raw).encode()
    joblib.dump(raw[:, [8, 7, 2, 3, 4, 5, 6, 1, 0]], tmp_path / "cal_housing_py3.pkz")
    expected = fetch_california_housing(data_home=tmp_path, download_if_missing=False, return_X_y=True)
    put(folder, "cal_housing.data", text)
    dataset = replace(DATASETS["california"], content=None)
    assert_same(dataset.load(), [array.astype(np.float32) for array in expected])


@pytest.mark.parametrize(
    "first", ["", '506,13,"","","","","","","","","","","",""\n'], ids=["plain", "sklearn 1.0"]
)
def test_boston_takes_columns_by_name(folder, first):
    names = [*readers.BOSTON[::-1], "extra"]
    rows = np.arange(30.0).reshape(2, 15)
    text = first + ",".join(names) + "\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n"
    put(folder, "boston_house_prices.csv", text.encode())
    x, y = replace(DATASETS["boston"], content=None).load()
    assert_same((x, y), (rows[:, 13:0:-1], rows[:, 0]))


def test_surnames_keep_their_parts_and_order(folder):
    rows = ["Nguyễn,val,Vietnamese", "Totah,train,Arabic", "Abbas,train,Arabic", "Ó Súil,test,Irish"]
    text = "\n".join(["surname,split,nationality", *rows])
    put(folder, "surnames_with_splits.csv", text.encode())
    dataset = replace(DATASETS["surname"], content=None)
    arrays = dataset.load()
    assert [array.tolist() for array in arrays] == [["Totah", "Abbas"], [0, 0], ["Nguyễn"], [17], ["Ó Súil"], [8]]
    assert dataset.classes[17] == "Vietnamese"


# --- containers that someone puts there ----------------------------------------------------------------


def other_dtypes(arrays):
    return [a.astype(np.float64 if a.ndim > 1 else np.uint8) for a in arrays]


def flattened(arrays):
    return [a.reshape(len(a), -1) for a in arrays]


@pytest.mark.parametrize("change", [list, other_dtypes, flattened])
def test_images_are_accepted_in_any_form_with_their_content(folder, change):
    arrays = small_images()
    put(folder, "mnist.npz", npz_bytes(**dict(zip(SPLIT, change(arrays), strict=True)), extra=np.zeros(1)))
    found = small("mnist", arrays).load()
    assert_same(found, arrays)
    assert [array.dtype for array in found] == [np.uint8, np.int64] * 2


def test_idx_files_are_read_where_torchvision_keeps_them(folder):
    arrays = small_images()
    for name, content in idx_files(arrays).items():
        put(folder / "MNIST" / "raw", name, content)
    dataset = small("mnist", arrays)
    assert_same(dataset.load(), arrays)
    assert left_over(folder) == {"MNIST"}
    (folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(AlteredDataError, match="Dataset not found"):
        dataset.load()


def test_cifar_is_read_from_its_folder(folder, cifar):
    dataset, arrays, files, _ = cifar
    for name, content in files.items():
        put(folder / "cifar-10-batches-py", name, content)
    assert_same(dataset.load(), arrays)
    assert left_over(folder) == {"cifar-10-batches-py"}


def test_foreign_pickle_is_never_opened(folder, cifar, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    dataset, _, files, _ = cifar
    for name, content in (files | {"data_batch_3": pickle.dumps(Trap())}).items():
        put(folder / "cifar-10-batches-py", name, content)
    with pytest.raises(AlteredDataError, match="corrupted"):
        dataset.load()
    objects = np.empty(1, object)
    objects[0] = Trap()
    put(folder, "mnist.npz", npz_bytes(**dict.fromkeys(SPLIT, objects)))
    with pytest.raises(AlteredDataError, match="allow_pickle"):
        DATASETS["mnist"].load()
    assert not (tmp_path / "trapped").exists()


def test_svhn_through_torchvision(folder, monkeypatch):
    import scipy.io

    arrays = small_images((32, 32, 3))
    source = import_torchvision().datasets.SVHN
    sums = {}
    for split, x, y in (("train", *arrays[:2]), ("test", *arrays[2:])):
        stream = io.BytesIO()
        scipy.io.savemat(stream, {"X": x.transpose(1, 2, 3, 0), "y": np.where(y == 0, 10, y)[:, None]})
        put(folder, f"{split}_32x32.mat", stream.getvalue())
        sums[split] = ["http://127.0.0.1", f"{split}_32x32.mat", md5(stream.getvalue())]
    monkeypatch.setattr(source, "split_list", sums)
    assert_same(small("svhn", arrays, (32, 32, 3)).load(), arrays)


def test_sets_without_a_known_hash_are_checked_by_shape_and_classes(folder):
    conform = partial(readers.images, rows=(20, 10), shape=(28, 28), classes=10)
    dataset = replace(DATASETS["svhn"], conform=conform)
    arrays = small_images()
    put(folder, "svhn.npz", npz_bytes(**dict(zip(SPLIT, arrays, strict=True))))
    assert_same(dataset.load(), arrays)
    assert "not known" in dataset.state()
    for part, change, message in (
        ("y_train", lambda y: y + 1, "classes 1 to 10"),
        ("x_test", lambda x: x[1:], "reshape"),
    ):
        put(folder, "svhn.npz", changed(arrays, part, change))
        with pytest.raises(AlteredDataError, match=message):
            dataset.load()


# --- missing, truncated, altered -----------------------------------------------------------------------


def one_line_with_remedy(message: str, name: str, folder: Path):
    assert "\n" not in message
    assert message.startswith(f"{name}")
    assert f"evomal data {name} --download" in message
    assert f"{name}.npz" in message
    assert str(folder) in message


@pytest.mark.parametrize("name", DOWNLOADABLE)
def test_missing_data_says_how_to_get_it_and_touches_nothing(name, folder):
    dataset = replace(DATASETS[name], download=lambda _: pytest.fail("downloads unasked"))
    with pytest.raises(MissingDataError) as caught:
        dataset.load()
    one_line_with_remedy(str(caught.value), name, folder)
    assert not folder.exists()


def changed(arrays, part, change):
    arrays = dict(zip(SPLIT, arrays, strict=True))
    arrays[part] = change(arrays[part].copy())
    return npz_bytes(**arrays)


def flip(array):
    array.flat[5] ^= 1
    return array


GOOD = npz_bytes(**dict(zip(SPLIT, small_images(), strict=True)))
BAD = {
    "empty": b"",
    "text": b"<html>404</html>" * 50,
    "truncated": GOOD[: len(GOOD) // 2],
    "no directory": GOOD[:-30],
    "a bit flipped in the file": GOOD[:5000] + bytes([GOOD[5000] ^ 4]) + GOOD[5001:],
    "an array, no archive": GOOD[GOOD.index(b"\x93NUMPY") :],
    "a part missing": npz_bytes(x_train=np.zeros(3)),
    "one image altered": changed(small_images(), "x_train", flip),
    "one class altered": changed(small_images(), "y_test", flip),
    "rows in another order": changed(small_images(), "x_test", lambda a: a[::-1]),
    "rows missing": changed(small_images(), "x_train", lambda a: a[1:]),
    "other values": changed(small_images(), "x_train", lambda a: a / 2),
    "no numbers": changed(small_images(), "x_train", lambda a: a.astype(str) + "x"),
    "NaN": changed(small_images(), "x_train", lambda a: a * np.nan),
    "class out of range": changed(small_images(), "y_train", lambda a: a + 10),
    "a scalar": changed(small_images(), "x_train", lambda a: np.array(3)),
}


@pytest.mark.parametrize("case", BAD)
def test_altered_file_is_one_clear_line(case, folder):
    path = put(folder, "mnist.npz", BAD[case])
    with pytest.raises(AlteredDataError) as caught:
        small("mnist", small_images()).load()
    one_line_with_remedy(str(caught.value), "mnist", folder)
    assert str(path) in str(caught.value)


def test_every_truncation_is_refused(folder):
    dataset = small("mnist", small_images())
    for length in range(0, len(GOOD), 997):
        put(folder, "mnist.npz", GOOD[:length])
        with pytest.raises(AlteredDataError):
            dataset.load()


def test_random_damage_is_refused_or_harmless(folder):
    rng = np.random.default_rng(0)
    dataset, arrays = small("mnist", small_images()), small_images()
    for _ in range(150):
        content = bytearray(GOOD)
        for place in rng.integers(0, len(content), 3) if rng.random() < 0.5 else rng.integers(0, 300, 2):
            content[place] = rng.integers(256)
        put(folder, "mnist.npz", bytes(content))
        try:
            assert_same(dataset.load(), arrays)
        except AlteredDataError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("boston", "boston_house_prices.csv", b"\xff\xfe\x00garbage"),
        ("boston", "boston_house_prices.csv", b""),
        ("boston", "boston_house_prices.csv", b"CRIM,MEDV\n1,2\n"),
        ("boston", "boston_house_prices.csv", ",".join(readers.BOSTON).encode() + b"\n1,2,3\n"),
        ("boston", "boston_house_prices.csv", ",".join(readers.BOSTON).encode() + b"\n" + b"1," * 13 + b"1\n"),
        ("california", "cal_housing.data", b"1,2,3\n4,5\n"),
        ("california", "cal_housing.data", b"1,2,3,4,5,6,7,8,9\n"),
        ("surname", "surnames_with_splits.csv", b"nationality,surname\nArabic,Totah\n"),
        ("surname", "surnames_with_splits.csv", b"nationality,split,surname\nMartian,train,Xq\n"),
        ("surname", "surnames_with_splits.csv", b"nationality,split,surname\nArabic,train,Totah\n"),
        ("surname", "surnames_with_splits.csv", b"nationality,split,surname\nArabic,train,Totah\nCzech"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12),
        ("cifar10", "cifar-10-batches-py/data_batch_1", b"garbage"),
        ("svhn", "train_32x32.mat", b"garbage"),
    ],
)
def test_damaged_container_is_one_clear_line(name, file, content, folder):
    put(folder, file, content)
    with pytest.raises(AlteredDataError) as caught:
        DATASETS[name].load()
    one_line_with_remedy(str(caught.value), name, folder)
    assert "None" not in str(caught.value)
    assert not (folder / f"{name}.npz").exists()


def test_damaged_cache_beside_a_good_file_does_no_harm(folder):
    put(folder, "mnist.npz", b"garbage")
    for name, content in idx_files(small_images()).items():
        put(folder / "MNIST" / "raw", name, content)
    assert_same(small("mnist", small_images()).load(), small_images())


def test_link_to_nowhere_and_folder_in_place_of_a_file(folder):
    folder.mkdir()
    (folder / "mnist.npz").symlink_to(folder / "gone")
    (folder / "boston.npz").mkdir()
    for name in ("mnist", "boston"):
        with pytest.raises(AlteredDataError) as caught:
            DATASETS[name].load()
        one_line_with_remedy(str(caught.value), name, folder)


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EVOMAL_DATA", "~/some")
    assert data_folder() == Path.home() / "some"
    monkeypatch.setenv("EVOMAL_DATA", "")
    assert data_folder() == Path(__file__).resolve().parents[2] / "data"


# --- downloads, from a server on this machine ----------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `files` by path, each in the way that `ways` says, and remembers what was asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ways: dict[str, str] = {}
        self.asked: list[str] = []
        self.end = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def handle_error(self, *_):
        """Clients that hang up are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 10

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.lstrip("/")
        self.server.asked.append(path)
        way, content = self.server.ways.get(path, "whole"), self.server.files.get(path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        match way:
            case "cut":
                self.wfile.write(content[: len(content) // 2])
            case "stalled":
                self.wfile.write(content[: len(content) // 2])
                self.server.end.wait(10)
            case "garbage":
                self.wfile.write(bytes(byte ^ 255 for byte in content))
            case _:
                self.wfile.write(content)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    serving = Server()
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield serving
    serving.end.set()
    serving.shutdown()
    serving.server_close()
    thread.join(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of sockets that torchvision leaves to the collector
        gc.collect()


@pytest.fixture
def mnist(server, monkeypatch):
    """MNIST of 20 and 10 images, on the server in the way torchvision names it, behind two mirrors."""
    arrays = small_images()
    files = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in idx_files(arrays).items()}
    server.files = {f"{mirror}/{name}": content for name, content in files.items() for mirror in "ab"}
    source = import_torchvision().datasets.MNIST
    monkeypatch.setattr(source, "mirrors", [server.url("a/"), server.url("b/")])
    monkeypatch.setattr(source, "resources", [(name, md5(content)) for name, content in files.items()])
    dataset = small("mnist", arrays)
    monkeypatch.setitem(DATASETS, "mnist", dataset)
    return dataset, arrays


def test_data_set_is_downloaded_verified_and_kept(mnist, server, folder):
    dataset, arrays = mnist
    server.ways = {"a/t10k-images-idx3-ubyte.gz": "garbage"}  # the other mirror has it
    put(folder, "mnist.npz", b"damaged")
    assert_same(dataset.load(download=True), arrays)
    assert left_over(folder) == {"mnist.npz"}
    asked = len(server.asked)
    assert_same(dataset.load(download=True), arrays)
    assert len(server.asked) == asked  # what is at hand is not downloaded again
    with np.load(folder / "mnist.npz") as file:
        assert set(file) == set(SPLIT)


@pytest.mark.parametrize("way", ["404", "cut", "stalled", "garbage"])
def test_failed_download_says_so_and_keeps_what_was_there(mnist, server, folder, way, monkeypatch):
    if way == "stalled":
        monkeypatch.setattr(catalogue, "TIMEOUT", 0.3)  # only there: this machine may be slow itself
    path = put(folder, "mnist.npz", b"someone's own")
    for mirror in "ab":
        name = f"{mirror}/t10k-labels-idx1-ubyte.gz"
        server.ways[name] = way
        if way == "404":
            del server.files[name]
    with pytest.raises(DownloadError) as caught:
        mnist[0].load(download=True)
    message = str(caught.value)
    assert message.startswith("mnist can't be downloaded (")
    assert "try again, set EVOMAL_DATA to another folder, or put mnist.npz or MNIST into" in message
    assert "\n" not in message
    assert path.read_bytes() == b"someone's own"
    assert left_over(folder) == {"mnist.npz"}


def test_download_of_another_content_is_refused(mnist, folder):
    dataset = replace(mnist[0], content="0" * 64)
    with pytest.raises(DownloadError, match=r"the download has another content .*put mnist.npz"):
        dataset.load(download=True)
    assert left_over(folder) == set()


def test_cifar_is_downloaded(cifar, server, folder, monkeypatch):
    dataset, arrays, _, archive = cifar
    source = import_torchvision().datasets.CIFAR10
    monkeypatch.setattr(source, "url", server.url(source.filename))
    server.files = {source.filename: archive}
    assert_same(dataset.load(download=True), arrays)
    assert left_over(folder) == {"cifar10.npz"}


BOSTON_FILE = ",".join(readers.BOSTON) + "\n" + ",".join("1" * 14) + "\n"
SURNAME_FILE = "nationality,split,surname\nArabic,train,A\nCzech,val,B\nIrish,test,C\n"


@pytest.mark.parametrize(("name", "content"), [("boston", BOSTON_FILE), ("surname", SURNAME_FILE)])
def test_tables_are_downloaded(name, content, server, folder):
    server.files = {"file": content.encode()}
    reader, address = DATASETS[name].download.args
    assert (reader, address[:8]) == (DATASETS[name].read, "https://")
    download = partial(DATASETS[name].download.func, reader, server.url("file"))
    dataset = replace(DATASETS[name], content=None, download=download)
    arrays = dataset.load(download=True)
    assert left_over(folder) == {f"{name}.npz"}
    assert_same(dataset.load(), arrays)


def test_california_is_downloaded_by_scikit_learn(folder, monkeypatch):
    asked = []

    def fetch(**options):
        asked.append(options)
        return np.ones((3, 8)), np.ones(3)

    monkeypatch.setattr("sklearn.datasets.fetch_california_housing", fetch)
    replace(DATASETS["california"], content=None).load(download=True)
    assert [options["return_X_y"] for options in asked] == [True]
    assert left_over(folder) == {"california.npz"}


def test_data_folder_that_is_a_file(mnist, folder):
    folder.write_text("")
    with pytest.raises(DownloadError, match=r"File exists.*EVOMAL_DATA"):
        mnist[0].load(download=True)
    with pytest.raises(MissingDataError):
        mnist[0].load()


def test_killed_download_leaves_no_cache(mnist, server, folder):
    """A process killed while the server stalls has written no mnist.npz, and the next download succeeds."""
    dataset, arrays = mnist
    server.ways = {"a/t10k-labels-idx1-ubyte.gz": "stalled"}
    code = (
        "import sys, json; from evomal_paper.datasets.torchvision import import_torchvision\n"
        "from evomal_paper.datasets.catalogue import DATASETS\n"
        "source = import_torchvision().datasets.MNIST\n"
        "source.mirrors, source.resources = json.loads(sys.argv[1])\n"
        "print('go', flush=True); DATASETS['mnist'].load(download=True)"
    )
    source = import_torchvision().datasets.MNIST
    told = json.dumps([source.mirrors, source.resources])
    with subprocess.Popen(
        [sys.executable, "-c", code, told], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "go\n"
            for _ in range(30_000):
                if "a/t10k-labels-idx1-ubyte.gz" in server.asked or server.end.wait(0.02):
                    break
        finally:
            process.kill()
    assert "a/t10k-labels-idx1-ubyte.gz" in server.asked
    assert not (folder / "mnist.npz").exists()
    server.ways = {}
    assert_same(dataset.load(download=True), arrays)


# --- torchvision ---------------------------------------------------------------------------------------


def test_torchvision_imports_in_a_fresh_process_without_warnings():
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from evomal_paper.datasets.torchvision import import_torchvision as f\n"
        "assert f() is f(); f().datasets.MNIST; import torchvision.transforms.v2, torchvision.models\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_torchvision_failing_for_another_reason_is_not_hidden(monkeypatch):
    def broken(name):
        raise RuntimeError("CUDA versions differ")

    monkeypatch.setattr(lazily, "import_module", broken)  # another test may have imported it already
    with pytest.raises(RuntimeError, match="CUDA versions differ"):
        import_torchvision.__wrapped__()


# --- command line --------------------------------------------------------------------------------------


def test_data_lists_what_is_at_hand(capsys):
    assert cli.main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(DATASETS)
    assert all(("at hand" in line and "verified" in line) or "--download" in line for line in lines)


def test_data_downloads(mnist, capsys, folder):
    assert cli.main(["data", "mnist", "--download"]) == 0
    assert "at hand: x_train (20, 28, 28)" in capsys.readouterr().out
    assert left_over(folder) == {"mnist.npz"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--download"], "--download takes the name of a data set"),
        (["mnits"], "did you mean 'mnist'?"),
        (["mnist", "--download"], "Error downloading train-images-idx3-ubyte.gz"),
    ],
)
def test_mistakes_are_one_line(mnist, server, capsys, arguments, message):
    server.files = {}
    assert cli.main(["data", *arguments]) == 2
    lines = capsys.readouterr().err.split("\r")[-1].strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(("name", "features", "rows"), [("boston", 13, 303), ("california", 8, 12_384)])
def test_experiment_with_its_data(name, features, rows, monkeypatch):
    monkeypatch.setenv("EVOMAL_DATA", str(REAL))
    entry = EXPERIMENTS[name]
    if missing := entry.missing():
        pytest.skip(missing)
    problem = entry.problem(entry.profile("smoke"), 0)
    assert problem.train[0].train[0].shape == (rows, features)
    assert problem.model()(problem.train[0].train[0]).shape == (rows, 1)


@pytest.mark.parametrize("name", ["boston", "california"])
def test_experiment_without_its_data_says_how_to_get_it(name, capsys):
    assert cli.main(["list"]) == 0
    assert f"evomal data {name} --download" in capsys.readouterr().out
    assert EXPERIMENTS[name].missing() is not None
