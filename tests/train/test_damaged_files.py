"""Files of data as people have them: damaged, in another layout, or not what their name says. Each is read exactly or refused by name."""

import gzip
import struct
import zlib

import numpy as np
import pytest
import torch

from scoresde import data

RNG = np.random.default_rng(0)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png16(values):
    """A PNG of 16 bits a channel, `(height, width, channels)`, every row by another of the filters none, left and up."""
    height, width, channels = values.shape
    rows, above, left = [], np.zeros(2 * width * channels, np.uint8), 2 * channels
    for i, row in enumerate(values.astype(">u2")):
        raw = np.frombuffer(row.tobytes(), np.uint8)
        minus = (np.zeros_like(raw), np.concatenate([np.zeros(left, np.uint8), raw[:-left]]), above)[i % 3]
        rows.append(bytes([i % 3]) + (raw - minus).tobytes())
        above = raw
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """A folder of three grey images, and what they hold."""
    from PIL import Image

    pixels = RNG.integers(0, 256, (3, 6, 6), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_kept(tmp_path, channels):
    values = RNG.integers(0, 65536, (7, 5, channels)).astype(np.uint16)
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png16(values))
    loaded = data.load(str(tmp_path))
    colours = values.astype(float)
    if channels in (2, 4):  # the last channel is the opacity, on white
        opacity = colours[..., -1:] / 65535
        colours = np.rint(opacity * colours[..., :-1] + (1 - opacity) * 65535)
        colours = np.repeat(colours, 3, -1) if channels == 2 else colours
    np.testing.assert_allclose(loaded.x[0].movedim(0, -1), colours / 65535 * 2 - 1, atol=1e-7)
    assert loaded.bins == 65536


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB", "L"])
def test_what_is_transparent_is_white(tmp_path, mode):
    from PIL import Image

    for i, hidden in enumerate((0, 90)):
        picture = Image.new("RGBA", (4, 4), (hidden, hidden, hidden, 0))
        picture.putpixel((1, 1), (10, 10, 10, 255))
        if mode in ("P", "RGB", "L"):  # one colour is transparent
            flat = Image.new("L", (4, 4), hidden)
            flat.putpixel((1, 1), 10)
            flat.convert(mode).save(tmp_path / f"{i}.png", transparency=(hidden,) * 3 if mode == "RGB" else hidden)
        else:
            (picture.convert("LA") if mode == "LA" else picture).save(tmp_path / f"{i}.png")
    x = data.load(str(tmp_path)).x
    assert torch.equal(x[0], x[1])
    assert float(x[0, :, 0, 0].min()) == 1
    assert float(x[0, 0, 1, 1]) == pytest.approx(10 / 127.5 - 1)


def test_opaque_pixels_keep_their_bytes_and_cameras_turn_their_pictures(tmp_path):
    from PIL import Image

    pixels = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    for i in range(2):
        picture = Image.fromarray(pixels)
        picture.putalpha(255)
        exif = picture.getexif()
        exif[0x0112] = 6  # a quarter turn to the right
        picture.save(tmp_path / f"{i}.png", exif=exif)
    x = data.load(str(tmp_path)).x[0].movedim(0, -1)
    assert np.array_equal(((x + 1) * 127.5).round().numpy(), np.rot90(pixels, -1))


@pytest.mark.parametrize(("mode", "kind", "channels"), [("1", "png", 1), ("P", "gif", 3), ("CMYK", "jpg", 3), ("L", "jpg", 1)])
def test_other_kinds_of_pixels(tmp_path, mode, kind, channels):
    from PIL import Image

    for i in range(2):
        Image.new("RGB", (4, 4), "white").convert(mode).save(tmp_path / f"{i}.{kind}")
    x = data.load(str(tmp_path)).x
    assert x.shape == (2, channels, 4, 4)
    torch.testing.assert_close(x, torch.ones_like(x), atol=0.02, rtol=0)


def test_what_is_no_picture_by_its_name_is_left_out(images):
    (images / "x.png").mkdir()
    for folder in ("__MACOSX", ".ipynb_checkpoints"):
        (images / folder).mkdir()
    for hidden in ("._0.png", "__MACOSX/._1.png", ".ipynb_checkpoints/0.png"):
        (images / hidden).write_bytes(b"\0\5\x16\7")
    assert data.load(str(images)).x.shape == (3, 1, 6, 6)


def test_a_picture_that_cannot_be_read_is_named(images):
    whole = (images / "1.png").read_bytes()
    broken = bytearray(whole)
    broken[50] ^= 255
    for harm in (b"", b"<html>404</html>", whole[: len(whole) // 2], bytes(broken)):
        (images / "1.png").write_bytes(harm)
        with pytest.raises(data.DataError, match=r"1\.png cannot be read"):
            data.load(str(images))
    (images / "1.png").unlink()
    (images / "1.png").symlink_to("gone.png")
    with pytest.raises(data.DataError, match=r"1\.png cannot be read"):
        data.load(str(images))


def test_pictures_of_other_depths_are_refused(images):
    from PIL import Image

    (images / "3.png").write_bytes(png16(RNG.integers(0, 65536, (6, 6, 1))))
    with pytest.raises(data.DataError, match=r"3\.png has levels 65536, .*0\.png 256: images must agree"):
        data.load(str(images))
    for picture, said in (
        (Image.fromarray(np.zeros((6, 6), np.float32)), "holds floats"),
        (Image.fromarray(np.full((6, 6), 70000, np.int32)), "more than 16 bits"),
    ):
        picture.save(images / "3.png", format="TIFF")
        with pytest.raises(data.DataError, match=rf"3\.png cannot be read: .*{said}"):
            data.load(str(images))
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(images / "3.png", transparency=0)
    with pytest.raises(data.DataError, match="16 bits and a transparent colour"):
        data.load(str(images))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 9, 7), (5, 1, 9, 7)),
        ((5, 9, 7, 3), (5, 3, 9, 7)),
        ((5, 3, 9, 7), (5, 3, 9, 7)),
        ((5, 1, 9, 7), (5, 1, 9, 7)),
        ((5, 4, 9, 3), (5, 3, 4, 9)),
        ((5, 9, 7, 2), (5, 2, 9, 7)),
        ((5, 2, 9, 7), None),
        ((5, 5, 9, 7), None),
        ((5, 9), None),
        ((5, 1, 9, 7, 3), None),
    ],
)
def test_the_axes_of_bytes(tmp_path, shape, expected):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    if expected is None:
        with pytest.raises(data.DataError, match=r"x\.npy has bytes of shape .* need \(N, height, width\)"):
            data.load(str(tmp_path / "x.npy"))
        return
    x = data.load(str(tmp_path / "x.npy")).x
    assert x.shape == expected
    assert float(x.double().mean()) == pytest.approx(array.mean() / 127.5 - 1, abs=1e-6)


def test_the_axes_of_floats(tmp_path):
    for shape in ((5, 3, 8, 8), (5, 2, 8, 4), (5, 8, 8), (5,)):
        np.save(tmp_path / "x.npy", np.zeros(shape))
        assert data.load(str(tmp_path / "x.npy")).x.shape == shape
    for shape in ((5, 8, 8, 3), (5, 9, 7, 1)):
        np.save(tmp_path / "x.npy", np.zeros(shape))
        with pytest.raises(data.DataError, match="moveaxis"):
            data.load(str(tmp_path / "x.npy"))


def test_arrays_of_another_byte_order_are_read(tmp_path):
    values = RNG.normal(size=(4, 3))
    for dtype in (">f4", ">f8", "<f2", "f8"):
        np.save(tmp_path / "x.npy", np.asfortranarray(values.astype(dtype)))
        np.testing.assert_allclose(data.load(str(tmp_path / "x.npy")).x, values, rtol=2e-3, atol=1e-3)


ODD_ARRAYS = {
    "strings": (np.array(["a", "b"]), "cannot be read"),
    "table": (np.zeros(4, dtype=[("a", "f4"), ("b", "f4")]), "cannot be read"),
    "dates": (np.zeros(4, "M8[s]"), "cannot be read"),
    "objects": (np.array([{}, 1], dtype=object), "Python objects"),
    "complex": (np.zeros((4, 2), complex), r"holds torch\.complex128"),
    "truth values": (np.zeros((4, 2), bool), r"holds torch\.bool"),
    "scalar": (np.array(1.0), r"has shape \(\)"),
    "no events": (np.zeros((4, 0)), r"has shape \(4, 0\)"),
    "too large": (np.array([[1e300], [0.0]]), "too large for float32"),
    "too small": (np.array([[1e-300], [0.0]]), "too small for float32"),
    "denormal": (np.array([[1e-40], [0.0]]), "too small for float32"),
}


@pytest.mark.parametrize("name", ODD_ARRAYS)
def test_arrays_that_are_no_data_are_named(tmp_path, name):
    array, said = ODD_ARRAYS[name]
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(data.DataError, match=rf"x\.npy.*{said}"):
        data.load(str(tmp_path / "x.npy"))


def test_files_that_are_no_arrays_are_named(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 2)))
    whole = path.read_bytes()
    np.savez(tmp_path / "x.npz", a=np.zeros((4, 3)))
    huge = whole.replace(b"'shape': (4, 2), }        ", b"'shape': (99999999999999,),}")
    for raw in (b"", whole[:20], whole[:-8], (tmp_path / "x.npz").read_bytes(), b"text", huge):
        path.write_bytes(raw)
        with pytest.raises(data.DataError, match=r"x\.npy cannot be read"):
            data.load(str(path))


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape) + array.tobytes()


def test_damaged_idx_files_are_named(tmp_path):
    images, labels = idx(RNG.integers(0, 256, (4, 3, 3), dtype=np.uint8)), idx(np.array([0, 1, 2, 1], np.uint8))
    zipped = gzip.compress(images)
    flipped = bytearray(zipped)
    flipped[15] ^= 255
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    for raw in (zipped[:-9], bytes(flipped), images, b""):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(raw)
        with pytest.raises(data.DataError, match=r"idx3-ubyte\.gz"):
            data.load(str(tmp_path))
    for raw, said in (
        (b"", "no IDX file"),
        (b"\0\0\x08", "no IDX file"),
        (labels, "has 1 axes; need 3"),
        (images[:6], "cut short"),
        (images + b"x", "too long"),
        (idx(np.zeros((1, 3, 3), np.uint8)), "1 images but 4 labels"),
        (idx(np.zeros((4, 0, 3), np.uint8)), "with pixels"),
    ):
        (tmp_path / "train-images-idx3-ubyte").write_bytes(raw)
        with pytest.raises(data.DataError, match=said):
            data.load(str(tmp_path))


def test_a_source_that_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in ("", "a\0b", "a" * 5000, "nothing.npy"):
        with pytest.raises(data.DataError):
            data.load(source)


def test_data_in_memory():
    with pytest.raises(TypeError, match=r"x holds torch\.int64"):
        data.Data(torch.zeros(4, 2).long())
    assert data.Data(np.zeros((4, 2)), [0, 2, 1, 1]).classes == 3
    for labels, classes, said in (
        ([0, 1, 2], None, "4 entries"),
        ([0, 1, 2, -1], None, "count from 0, got -1"),
        ([0, 1, 2, 1], 2, r"0\.\.1, got 2"),
        ([0.0, 1.0, 1.0, 0.0], None, "give integers"),
    ):
        with pytest.raises(ValueError, match=said):
            data.Data(torch.zeros(4, 2), torch.tensor(labels), classes)
    with pytest.raises(ValueError, match=r"held_out must be an integer, got 2\.5"):
        data.Data(torch.zeros(4, 2)).split(2.5)
    one, same, other = (data.Data(torch.arange(40.0)).split(9, seed)[1].x for seed in (3, 3 + 2**64, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
