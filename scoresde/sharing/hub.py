"""Files of a repository on the Hugging Face Hub, through `huggingface_hub`, which is imported when a name is not that of a folder."""

from __future__ import annotations

import re
from pathlib import Path

# owner/name, as the Hub allows it.
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def files(repository: str, names: tuple[str, ...], revision: str | None = None) -> list[Path]:
    """The files of a repository, from the cache of `huggingface_hub` where they are in it.

    Raises:
        FileNotFoundError: the name is neither that of a folder nor that of a repository.
        ImportError: huggingface_hub is not installed.
    """
    if not REPOSITORY.fullmatch(repository):
        raise FileNotFoundError(f"there is no folder {repository}, and no repository can have this name: it is owner/name")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ImportError(
            f"there is no folder {repository}; a repository of the Hugging Face Hub needs huggingface_hub: pip install huggingface_hub"
        ) from None
    return [Path(hf_hub_download(repository, name, revision=revision)) for name in names]
