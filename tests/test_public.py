"""The public names and signatures are those of tests/data/public.txt: a change of any is a decision, not an accident.

After a change that is meant, `python -m tests.test_public` renews the file; CHANGELOG.md says what a user has to know.
"""

import difflib
import inspect
import re
from pathlib import Path

from docs.make_api import PACKAGES, home, public_names

STORED = Path(__file__).parent / "data" / "public.txt"


def signature(name, value):
    """`name(x, *, y=1)` without annotations; default values without addresses."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return name
    plain = inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])
    return name + re.sub(r"<(?:function|class|bound method)? ?'?([\w.]+)'?(?: at 0x\w+)?>", r"\1", str(plain))


def members(value, public):
    """The public methods and properties of a class that no public base class has with the same signature; fields are in its signature."""
    ours = [base for base in value.__mro__ if base.__module__.startswith("scoresde")]
    names = {name: None for base in ours for name in vars(base) if not name.startswith("_")}
    inherited = {method(base, name) for base in value.__mro__[1:] if base in public for name in names if hasattr(base, name)}
    fields = getattr(value, "__dataclass_fields__", None) or getattr(value, "_fields", ())
    return [line for name in names if name not in fields and (line := method(value, name)) not in inherited]


def method(owner, name):
    """A method with its signature; the name alone of a property or a constant."""
    static = inspect.getattr_static(owner, name)
    called = inspect.isfunction(static) or isinstance(static, classmethod | staticmethod)
    return signature(name, getattr(owner, name)) if called else name


def lines():
    """One line for each public name, and for each method of a class and key of a dictionary where the name is at home."""
    names = [(package, name, value) for package in PACKAGES for name, value in public_names(package).items()]
    classes = {value for _, _, value in names if inspect.isclass(value)}
    found = []
    for package, name, value in names:
        path = f"{package}.{name}"
        if inspect.ismodule(value):
            found.append(path)
        elif (at := home(name, value)) != package:
            found.append(f"{path} is {at}.{name}")
        elif inspect.isclass(value):
            found += [signature(path, value), *(f"{path}.{line}" for line in members(value, classes))]
        elif isinstance(value, dict):
            found += [path, *(f"{path}[{key!r}]" for key in value)]
        else:
            found.append(signature(path, value) if inspect.isfunction(value) else path)
    return sorted(found)


def test_the_public_names_and_signatures_are_those_stored():
    stored, now = STORED.read_text().splitlines(), lines()
    changed = [line for line in difflib.unified_diff(stored, now, "stored", "now", lineterm="", n=0) if not line.startswith("@@")]
    assert not changed, "\n".join(["renew with `python -m tests.test_public` if this is meant:", *changed])


if __name__ == "__main__":
    STORED.write_text("\n".join(lines()) + "\n")
