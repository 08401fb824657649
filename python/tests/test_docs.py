"""The programs in the documentation run."""

import re

import pytest

from conftest import ROOT

PAGES = ["docs/python.md", "python/README.md"]
BLOCKS = [
    (page, number, block)
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    )
]


@pytest.mark.parametrize("page, number, block", BLOCKS, ids=[f"{p}:{n}" for p, n, _ in BLOCKS])
def test_the_programs_run(page, number, block, monkeypatch):
    for module in ("pandas", "torch"):
        if module in block:
            pytest.importorskip(module)
    monkeypatch.chdir(ROOT)
    exec(compile(block, f"{page}, program {number}", "exec"), {})
