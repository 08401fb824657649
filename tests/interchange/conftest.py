"""What the tests of other programs share: calls of the program, and models to call it with.

They install nothing. Each file names the packages that it needs, and is skipped without them. The
program is the one in `BAGDOT`, or else the newest build in `target/`.
"""

import os
import random
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CLICKS = """
[data]
train = "clicks.csv"
label = "clicked"
dense = [{{ column = "age", transform = "zscore" }}, {{ column = "price", {price} }}]
categorical = [
    {{ column = "page" }},
    {{ column = "tags", separator = " ", pooling = "{tags}" }},
    {{ column = "city" }},
    {{ column = "words", separator = " ", pooling = "{words}" }},
]

[model]
bottom_mlp = [16, 8]
top_mlp = [16, 8]
# Large values, so that every pair matters to the predictions.
table_init = {{ normal = 1.0 }}
{model}

[train]
epochs = 4
select = "auc"
batch_size = 32
patience = 0
members = {members}
"""


def program():
    """Returns the path of the program."""
    if "BAGDOT" in os.environ:
        return Path(os.environ["BAGDOT"]).resolve()
    builds = [ROOT / "target" / profile / "bagdot" for profile in ("release", "debug")]
    builds = [path for path in builds if path.exists()]
    assert builds, "no program: run `cargo build` first, or set BAGDOT"
    return max(builds, key=lambda path: path.stat().st_mtime)


def bagdot(*arguments, folder=ROOT):
    """Runs the program, which must succeed, and returns its standard output."""
    command = [program(), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def make_model(
    folder,
    model="append_sparse = false",
    tags="sum",
    words="sum",
    members=1,
    price="bins = 0",
):
    """Trains a small model on clicks that are drawn here. Returns its directory."""
    draw = random.Random(7)
    rows = ["age,price,page,tags,city,words,clicked"]
    for _ in range(1500):
        page, city = draw.randrange(9), draw.randrange(4)
        some_tags = [draw.randrange(12) for _ in range(draw.choice([0, 0, 1, 2, 5]))]
        some_words = [draw.randrange(30) for _ in range(draw.choice([0, 1, 3, 8]))]
        clicked = draw.random() < 0.2 + 0.06 * page + (0.2 if 3 in some_tags else 0.0)
        rows.append(
            f"{draw.randrange(18, 70)},{draw.uniform(0.5, 900):.2f},p{page},"
            f"{' '.join(f't{tag}' for tag in some_tags)},c{city},"
            f"{' '.join(f'w{word}' for word in some_words)},{int(clicked)}"
        )
    # The last rows of the file have empty bags.
    rows += ["30,1.0,p1,,c1,,0"] * 3
    (folder / "clicks.csv").write_text("\n".join(rows) + "\n")
    text = CLICKS.format(model=model, tags=tags, words=words, members=members, price=price)
    (folder / "clicks.toml").write_text(text)
    bagdot("train", "clicks.toml", "--quiet", "--out", "model", folder=folder)
    return folder / "model"


@pytest.fixture(scope="session")
def clothing(tmp_path_factory):
    """A model of the reviews of `examples/clothing.toml`, trained for one epoch."""
    model = tmp_path_factory.mktemp("clothing") / "model"
    config = ROOT / "examples/clothing.toml"
    bagdot("train", config, "--quiet", "--epochs", 1, "--out", model)
    return model


REVIEWS = ROOT / "data/clothing/reviews.csv.gz"


def predictions(model, data):
    """Returns the probabilities that the program predicts."""
    import numpy

    return numpy.array([float(line) for line in bagdot("predict", model, data).split()])
