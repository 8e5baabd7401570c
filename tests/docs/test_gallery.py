"""The gallery has every example, with a picture that is not too large to load."""

from docs.make_gallery import EXAMPLES, PICTURES, ROOT, write


def test_every_example_is_in_the_gallery_with_a_picture():
    assert set(EXAMPLES) == {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert set(EXAMPLES) == {path.stem for path in PICTURES.glob("*.png")}
    assert {path.name for path in PICTURES.glob("*.png") if path.stat().st_size > 250_000} == set()


def test_the_page_has_a_card_a_picture_and_the_source_of_each(tmp_path):
    write(tmp_path)
    page = (tmp_path / "gallery.md").read_text()
    for name in EXAMPLES:
        assert page.count(f"gallery/{name}.png\n") == 2
        assert f":link: gallery-{name}\n" in page
        assert f"\n(gallery-{name})=\n" in page
        assert f"```{{literalinclude}} ../examples/{name}.py\n" in page
