"""The processes of the demo run what is installed, wherever the demo is started."""

import subprocess
from pathlib import Path

from chunkstore.stages.demo.ranks import RANK_COMMAND


def imports(python: tuple[str, ...], folder: Path) -> bool:
    done = subprocess.run([*python, "-c", "import shadow"], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


def test_ranks_do_not_import_from_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "shadow.py").touch()
    executable, *options = RANK_COMMAND
    assert options[-2:] == ["-m", "chunkstore.stages.demo.rank"]
    assert imports((executable,), tmp_path)
    assert not imports((executable, *options[:-2]), tmp_path)
