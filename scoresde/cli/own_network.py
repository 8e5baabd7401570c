"""A network of the user's own, in a file of Python."""

from __future__ import annotations

from torch import nn

from ..numerics.modules import module_of


def own_network(text: str) -> nn.Module:
    """The module that FILE.py:NAME or PACKAGE.MODULE:NAME names: itself, or what the class or function of that name returns.

    The folder of the file can be imported from, as when Python runs the file.

    Raises:
        ValueError: there is no such file or name, its code fails, or it makes no module; names it.
    """
    source, _, name = text.rpartition(":")
    if not source or not name:
        raise ValueError(f"--network {text}: must be FILE.py:NAME, such as nets.py:make_network")
    try:
        found = getattr(module_of(source), name)
        made = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"--network {text}: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"--network {text}: must be a torch.nn.Module or a ScoreModel, or a class or function that makes one without arguments"
        )
    return made
