"""The benchmark of writing and reading runs, reads back what it wrote, and tells every figure that it is for."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "read_write.py"


def test_quick_run_tells_every_figure(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--json", "--seed", "1", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]

    for kind in ("fields", "tokens"):
        for codec in ("auto", "no codec"):
            name = f"{kind}, {codec}"
            writers = {line["arm"]: line for line in lines if line.get("table") == f"write: {name}" and "cpu_s" in line}
            assert {"chunkstore, durable", "TensorStore, durable", "limit: memcpy"} <= set(writers)
            assert ("np.save, durable" in writers) == (codec == "no codec")
            assert all(0 < w["least_s"] <= w["median_s"] <= w["most_s"] for w in writers.values())
            for state in ("warm", "fresh"):
                table = f"read 16 random samples, {state}: {name}"
                against = {
                    line["against"].split(",")[0]: line for line in lines if line["table"] == table and "met" in line
                }
                assert set(against) == {"zarr-python", "TensorStore"}
                assert [against["zarr-python"]["at_least"], against["TensorStore"]["at_least"]] == [20, 2]
    numbers = {(line["table"], line["name"]): line["value"] for line in lines if line["kind"] == "number"}
    assert numbers["sizes: fields, auto", "bytes stored / bytes given"] < 0.95
    assert 1 <= numbers["sizes: fields, no codec", "bytes stored / bytes given"] < 1.1
    assert all(value > 0 for (_, name), value in numbers.items() if "crc32c's share" in name or "objects" in name)
    assert not list(tmp_path.iterdir()), "nothing is left behind"
