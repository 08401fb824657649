"""The blocks of `docs/interchange.md` run as they stand there, one after the other.

They need what the page imports: onnxruntime, safetensors, torch and torchrec.
"""

import os
import re
import subprocess
import sys

import pytest

numpy = pytest.importorskip("numpy")
for package in ("onnxruntime", "safetensors", "torch", "torchrec"):
    pytest.importorskip(package)

from conftest import REVIEWS, ROOT, bagdot, predictions, program  # noqa: E402


def test_the_page_runs(tmp_path):
    for folder in ("examples", "data"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bagdot").symlink_to(program())
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    page = (ROOT / "docs/interchange.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["sh", "python", "sh", "python", "sh"]
    for language, text in blocks:
        if language == "python":
            # What the first block prints is compared below.
            text += "\nif 'probabilities' in dir(): probabilities.tofile('p')\n"
        shell = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, text],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
    got = numpy.fromfile(tmp_path / "p", dtype=numpy.float32)
    assert numpy.abs(got - predictions(tmp_path / "runs/clothing", REVIEWS)).max() < 1e-5
    # Training in PyTorch has changed the model.
    before, after = (
        predictions(tmp_path / "runs" / model, tmp_path / "clicks.tsv")
        for model in ("clicks", "tuned")
    )
    assert numpy.abs(before - after).max() > 1e-3
    # The page says that an imported model can be trained on.
    bagdot("train", "clicks.toml", "--out", "runs/tuned", "--resume", "--quiet", folder=tmp_path)
