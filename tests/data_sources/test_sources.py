"""Sources: each gives the samples that its data set in memory has, and says what cannot be read."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde import data
from scoresde.data import order

SOME = torch.tensor([5, 0, 3, 3])


def everything(source):
    return source.batch(torch.arange(len(source)))


def assert_equal(first, second):
    assert torch.equal(first[0], second[0])
    assert first[1].keys() == second[1].keys()
    assert all(torch.equal(first[1][key], second[1][key]) for key in first[1])


@pytest.fixture
def pictures(tmp_path):
    """Two folders of three images in colour."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    return tmp_path


class Pairs:
    """Six items of a map-style data set, made by a function."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return self.make(i)


def test_memory(device):
    x, label = torch.rand(6, 2), torch.arange(6)
    source = data.Memory(x.to(device), {"label": label})
    got, cond = source.batch(SOME)
    assert torch.equal(got.cpu(), x[SOME])
    assert torch.equal(cond["label"], SOME)
    assert (len(source), source.classes, source.bins) == (6, None, None)
    with pytest.raises(ValueError, match="label has 5 entries for 6 samples"):
        data.Memory(x, {"label": label[:5]})
    with pytest.raises(ValueError, match="no samples"):
        data.Memory(x[:0])


def test_small_changes_of_memory_change_the_fingerprint():
    x, label = torch.rand(100, 2), torch.arange(100)
    other = x.clone()
    other[57, 1] += 1
    prints = [data.Memory(*args).fingerprint() for args in ((x,), (x, {"label": label}), (other,), (x, {"class_": label}))]
    assert len(set(prints)) == 4
    assert data.Memory(x.clone()).fingerprint() == prints[0]


def test_data_as_a_source():
    digits = data.load("digits")
    source = digits.source()
    assert_equal(everything(source), (digits.x, {"label": digits.labels}))
    assert (source.classes, source.bins) == (10, 17)
    assert_equal(everything(data.open("digits")), everything(source))


@pytest.mark.parametrize("dtype", ["uint8", ">f4", "<f8"])
def test_arrays(tmp_path, dtype):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (6, 4, 5, 3)) if dtype == "uint8" else rng.normal(size=(6, 3, 4, 5))
    np.save(tmp_path / "x.npy", array.astype(dtype))
    np.save(tmp_path / "label.npy", np.arange(6))
    whole = data.load(str(tmp_path / "x.npy"))
    tags = torch.rand(6, 2)
    for x in (tmp_path / "x.npy", np.load(tmp_path / "x.npy", mmap_mode="r")):
        source = data.Arrays(x, {"label": str(tmp_path / "label.npy"), "tags": tags})
        assert_equal(source.batch(SOME), (whole.x[SOME], {"label": SOME, "tags": tags[SOME]}))
        assert (source.classes, source.bins) == (None, 256 if dtype == "uint8" else None)
        assert source.fingerprint() == pickle.loads(pickle.dumps(source)).fingerprint()
    assert_equal(everything(data.open(str(tmp_path / "x.npy"))), (whole.x, {}))


def test_arrays_are_pickled_by_path(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1000, 100)))
    source = data.Arrays(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert len(pickle.dumps(source)) < 2000
    before = source.fingerprint()
    np.save(tmp_path / "x.npy", np.ones((1000, 100)))
    assert data.Arrays(tmp_path / "x.npy").fingerprint() != before


def test_levels_of_integers(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(17, dtype=np.uint16)[:, None])
    assert everything(data.Arrays(path, levels=17))[0].flatten().tolist() == pytest.approx([i / 8 - 1 for i in range(17)])
    with pytest.raises(data.DataError, match=r"x\.npy holds 16, which is none of the levels 0\.\.15"):
        everything(data.Arrays(path, levels=16))
    with pytest.raises(data.DataError, match="levels= for other integers"):
        data.Arrays(path)
    np.save(path, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="floats, which have no levels"):
        data.Arrays(path, levels=16)


def test_arrays_that_cannot_be_read_in_parts_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([[1.0]] * 5 + [[np.inf]]))
    with pytest.raises(data.DataError, match=r"x\.npy holds values that are not finite"):
        data.Arrays(path).batch(SOME)
    mapped = np.load(path, mmap_mode="r")
    for wrong in (mapped[1:], mapped[:, ::-1], np.zeros((3, 2)), torch.zeros(3, 2)):
        with pytest.raises(TypeError, match=r"give the path of a \.npy file or a whole"):
            data.Arrays(wrong)
    np.save(tmp_path / "label.npy", np.arange(5))
    with pytest.raises(ValueError, match="label has 5 entries for 6 samples"):
        data.Arrays(path, {"label": tmp_path / "label.npy"})


def test_image_folder(pictures):
    whole = data.load(str(pictures))
    source = data.ImageFolder(pictures, cond={"text": torch.arange(6)})
    assert_equal(source.batch(SOME), (whole.x[SOME], {"text": SOME, "label": whole.labels[SOME]}))
    assert (source.shape, source.classes, source.bins) == ((3, 6, 5), 2, 256)
    assert isinstance(data.open(str(pictures)), data.ImageFolder)
    with pytest.raises(ValueError, match="classes already"):
        data.ImageFolder(pictures, cond={"label": torch.arange(6)})
    before = source.fingerprint()
    (pictures / "dog" / "2.png").rename(pictures / "dog" / "3.png")
    assert data.ImageFolder(pictures, cond={"text": torch.arange(6)}).fingerprint() != before


def test_images_of_several_sizes_become_squares(tmp_path):
    """The shorter side is resized without aliases, and the centre stays: stripes of one pixel become grey, an edge stays in the middle."""
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    edge = np.zeros((32, 96), dtype=np.uint8)
    edge[:, 48:] = 255
    for name, values in (("0", stripes), ("1", edge)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    Image.fromarray(257 * edge.astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(data.DataError, match=r"1\.png has height and width"):
        data.ImageFolder(tmp_path).batch(torch.tensor([1]))
    x, _ = data.ImageFolder(tmp_path, size=16).batch(torch.tensor([0, 1]))
    assert x.shape == (2, 1, 16, 16)
    assert float(x[0, :, :, 2:-2].abs().max()) < 0.1
    assert (x[1, 0, :, :6] < -0.9).all()
    assert (x[1, 0, :, 10:] > 0.9).all()
    with pytest.raises(data.DataError, match=r"deep\.png has levels 65536"):
        data.ImageFolder(tmp_path, size=16).batch(torch.tensor([2]))
    (tmp_path / "deep").mkdir()
    for i in range(2):
        Image.fromarray(257 * edge.astype(np.uint16)).save(tmp_path / "deep" / f"{i}.png")
    deep, _ = data.ImageFolder(tmp_path / "deep", size=16).batch(torch.tensor([0]))
    # Bytes are rounded.
    assert torch.allclose(deep, x[1:], atol=2 / 255)


def test_rows_of_tuples_and_dicts(pictures):
    whole = data.load(str(pictures))
    files = data.ImageFolder(pictures).files
    as_bytes = ((whole.x + 1) * 127.5).round().byte()

    def opened(i):
        with Image.open(files[i]) as image:
            return image.copy()

    for make, keys in (
        (lambda i: (opened(i), i), (0, 1)),
        (lambda i: {"image": np.array(opened(i)), "i": np.int64(i)}, ("image", "i")),
        (lambda i: {"image": as_bytes[i], "i": torch.tensor(i)}, ("image", "i")),
        (lambda i: (whole.x[i], i), (0, 1)),
    ):
        source = data.Rows(Pairs(make), image=keys[0], cond={"label": keys[1]})
        assert_equal(source.batch(SOME), (whole.x[SOME], {"label": SOME}))
        assert source.fingerprint() == source.fingerprint()
    assert data.Rows(Pairs(lambda i: (opened(i), i)), image=0, size=4).batch(SOME)[0].shape == (4, 3, 4, 4)


def test_rows_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"x": [[float(i), 0.5] for i in range(6)], "label": list(range(6))})
    source = data.Rows(table.with_format("torch"), image="x", cond={"label": "label"})
    assert_equal(source.batch(SOME), (torch.stack([SOME, torch.full((4,), 0.5)], 1), {"label": SOME}))


def test_rows_that_cannot_be_read_are_named():
    for make, message in (
        (lambda i: (torch.zeros(2 + i // 3), i), r"item 5 has a sample of \(3,\) torch.float32, item 0 of \(2,\)"),
        (lambda i: (torch.zeros(2), "text" if i > 3 else i), "item 5 cannot be read: .*label"),
        (lambda i: (torch.zeros(2) if i < 4 else torch.arange(2), i), "item 5 .*holds torch.int64"),
    ):
        with pytest.raises(data.DataError, match=message):
            data.Rows(Pairs(make), image=0, cond={"label": 1}).batch(SOME)
    with pytest.raises(data.DataError, match=r"item 0 cannot be read: .*no entry 'x', but a tuple"):
        data.Rows(Pairs(lambda i: (i,)), image="x")
    with pytest.raises(TypeError, match="a Stream has neither"):
        data.Rows(iter([1]), image=0)


def test_random_transforms_leave_the_fingerprint_and_the_global_state():
    source = data.Rows(Pairs(lambda i: (torch.rand(2), i)), image=0)
    state = torch.get_rng_state()
    assert source.fingerprint() == source.fingerprint()
    assert torch.equal(torch.get_rng_state(), state)


def test_parts():
    source = data.Memory(torch.arange(10.0)[:, None], {"label": torch.arange(10)}, classes=10)
    for indices, expected in (
        (torch.tensor([9, 1, 1, 4]), [4, 9, 1]),
        (range(8, 0, -2), [2, 8, 6]),
        (order.Feistel(10, 0), order.Feistel(10, 0)[torch.tensor([3, 0, 1])].tolist()),
    ):
        part = data.Part(source, indices)
        assert len(part) == len(indices)
        x, cond = part.batch(torch.tensor([3, 0, 1]))
        assert x.flatten().tolist() == cond["label"].tolist() == expected
        assert part.classes == 10
        assert part.fingerprint() != source.fingerprint()
    for wrong in (torch.tensor([0, 10]), torch.tensor([-1]), range(8, 12)):
        with pytest.raises(ValueError, match=r"indices must lie in 0\.\.9"):
            data.Part(source, wrong)


def test_split_is_that_of_data(monkeypatch):
    digits = data.load("digits")
    for there, here in zip(digits.split(297, seed=3), data.split(digits.source(), 297, seed=3), strict=True):
        assert_equal(everything(here), (there.x, {"label": there.labels}))
    monkeypatch.setattr(order, "TABLE", 10)
    source = data.Memory(torch.arange(1000.0)[:, None])
    training, held_out = data.split(source, 100)
    # Without a table of the indices.
    assert len(pickle.dumps(training.indices)) + len(pickle.dumps(training.source.indices)) < 300
    both = torch.cat([everything(training)[0], everything(held_out)[0]]).flatten()
    assert (len(training), len(held_out)) == (900, 100)
    assert torch.equal(both.sort().values, torch.arange(1000.0))
    with pytest.raises(data.DataError, match="cannot hold out 1000 of 1000"):
        data.split(source, 1000)


def test_mirrored_and_unconditional():
    source = data.Memory(torch.rand(3, 1, 2, 4), {"label": torch.arange(3)}, classes=3)
    mirrored = data.Mirrored(source)
    assert len(mirrored) == 6
    x, cond = mirrored.batch(torch.tensor([3, 2, 5]))
    assert torch.equal(x, torch.stack([source.x[0].flip(-1), source.x[2], source.x[2].flip(-1)]))
    assert cond["label"].tolist() == [0, 2, 2]
    assert mirrored.classes == 3
    plain = data.Unconditional(source)
    assert_equal(plain.batch(torch.tensor([2])), (source.x[2:], {}))
    assert plain.classes is None
    assert len({one.fingerprint() for one in (source, mirrored, plain)}) == 3
    with pytest.raises(ValueError, match="only images can be mirrored"):
        data.Mirrored(data.Memory(torch.rand(3, 4)))


def mixed_folder(path):
    """Two grey images and a coloured one, of three sizes."""
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(7, 5), (6, 9, 3), (8, 8)]):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path / f"{i}.png")
    return path


def test_a_folder_of_grey_and_coloured_images_gets_one_mode(tmp_path):
    mixed_folder(tmp_path)
    for mode, name in (("grey", "L"), ("rgb", "RGB")):
        x, _ = data.ImageFolder(tmp_path, crop=4, mode=mode).batch(torch.arange(3))
        for i in range(3):
            with Image.open(tmp_path / f"{i}.png") as image:
                top, left = (image.height - 4) // 2, (image.width - 4) // 2
                expected = np.array(image.convert(name).crop((left, top, left + 4, top + 4))).reshape(4, 4, -1)
            assert np.array_equal(((x[i].movedim(0, -1) + 1) * 127.5).round().numpy(), expected)
        assert torch.equal(data.load(str(tmp_path), crop=4, mode=mode).x, x)
    assert data.ImageFolder(tmp_path, 6, crop=4, mode="rgb").batch(torch.arange(3))[0].shape == (3, 3, 4, 4)


def test_images_that_do_not_agree_are_refused_with_what_makes_them_agree(tmp_path):
    mixed_folder(tmp_path)
    for options, said in (
        ({}, r"1\.png has channels 3, .*0\.png 1: .*mode='grey' or mode='rgb'"),
        ({"mode": "grey"}, r"1\.png has height and width \(6, 9\), .*0\.png \(7, 5\): .*size=N or crop=N"),
        ({"crop": 6}, r"0\.png.* has 7 x 5 pixels, and crop=6 needs more: size=6 would enlarge it"),
    ):
        with pytest.raises(data.DataError, match=said):
            data.load(str(tmp_path), **options)
    with pytest.raises(ValueError, match="mode must be one of grey, rgb"):
        data.ImageFolder(tmp_path, mode="gray")


def test_other_pixels_have_another_fingerprint(tmp_path):
    mixed_folder(tmp_path)
    folders = [
        data.ImageFolder(tmp_path, **options)
        for options in ({"size": 4, "mode": "rgb"}, {"crop": 4, "mode": "rgb"}, {"size": 4, "mode": "grey"})
    ]
    assert len({folder.fingerprint() for folder in folders}) == 3


def test_open_refuses_a_size_of_no_images():
    for options, said in (({"size": 8}, "size="), ({"crop": 8, "mode": "grey"}, "crop=, mode=")):
        with pytest.raises(ValueError, match=f"^{said} is for a folder of images, and 'digits' is none"):
            data.open("digits", **options)
    with pytest.raises(data.DataError, match="neither a known data set"):
        data.open("nothing")
