"""The DVC repository of a home: it versions the dataset folder `data/` and keeps every version retrievable.

```
<home>/dataset/data/               the working dataset folder
<home>/dataset/data.dvc            what DVC says about it
<home>/dataset/versions/<ds>.dvc   one pointer a version, so that an old one can be pulled beside the current
<home>/dvc-remote/                 every object of every version
```

It stands outside Git (`core.no_scm`), so a home can lie anywhere; its config is checked at each opening, so a home can
be moved.
Method: https://dvc.org/doc/user-guide/data-management; a directory's md5 is that of its sorted file list.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from voice_pipeline.schema.ids import dataset_version
from voice_pipeline.settings import QUIET
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.errors import DamagedManifestError, UnknownDatasetError

CONFIG = """\
[core]
    no_scm = True
    analytics = false
    check_update = false
    remote = home
    site_cache_dir = {site_cache}
[cache]
    type = "hardlink,copy"
['remote "home"']
    url = ../../dvc-remote
"""


@contextmanager
def open_repo(root: Path) -> Iterator[Any]:
    """The DVC repository at `root` (made on first use), as a `dvc.repo.Repo`."""
    os.environ.update(QUIET)
    config = root / ".dvc" / "config"
    wanted = CONFIG.format(site_cache=root / ".dvc" / "site-cache").encode()
    if not config.exists() or config.read_bytes() != wanted:
        write_atomically(config, wanted)
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    repo = Repo(str(root))
    try:
        yield repo
    finally:
        repo.close()


def add_version(root: Path) -> tuple[str, str]:
    """Version what `root/data` holds now and push it; returns (dataset_version, md5 of the folder).

    Safe to repeat after a crash at any instant: the same content gives the same version, objects are pushed before the
    pointer `versions/<ds>.dvc` appears.
    """
    with open_repo(root) as repo:
        md5 = str(repo.add(str(root / "data"))[0].outs[0].hash_info.value).removesuffix(".dir")
        repo.push()
    name = dataset_version(md5)
    pointer = (root / "data.dvc").read_text().replace("path: data\n", f"path: {name}\n")
    write_atomically(root / "versions" / f"{name}.dvc", pointer.encode())
    return name, md5


def pull_version(root: Path, name: str) -> Path:
    """Fetch dataset version `name` to `root/versions/<name>`; returns that folder.

    Raises:
        UnknownDatasetError: there is no pointer for it.
        DamagedManifestError: the remote does not hold all of it.
    """
    pointer = root / "versions" / f"{name}.dvc"
    if not pointer.exists():
        raise UnknownDatasetError(f"dataset version {name} has no {pointer.name} in {pointer.parent}; restore it")
    with open_repo(root) as repo:
        from dvc.exceptions import DvcException

        try:
            repo.pull(targets=[str(pointer)], force=True)
        except DvcException as error:
            raise DamagedManifestError(
                f"dataset version {name} cannot be pulled: {error}; restore the remote"
            ) from error
    return root / "versions" / name
