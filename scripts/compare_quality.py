"""Trains LightGBM on the rows of the examples, and prints its figures on the test rows.

    python3 -m venv .venv && .venv/bin/pip install lightgbm==4.7.0 pandas==3.1.1 scikit-learn==1.9.1
    .venv/bin/python scripts/compare_quality.py [--tuned] clothing bank movielens housing

Rows are split as `split = { by = "hash", seed = 0 }` splits them. The columns are those of
examples/*.toml without bins and crosses, which trees find by themselves. Categories are tried both
as LightGBM's own and as numbers in order of first appearance; the validation rows choose. With
--tuned they also choose among 18 settings: rate, leaves, and rows of a leaf.
"""

import itertools

import sys
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score

DATA = Path(__file__).resolve().parent.parent / "data"
PARAMETERS = dict(
    objective="binary",
    learning_rate=0.05,
    num_leaves=31,
    min_data_in_leaf=20,
    feature_fraction=0.8,
    bagging_fraction=0.8,
    bagging_freq=1,
    cat_smooth=20,
    min_data_per_group=50,
    seed=1,
    deterministic=True,
    verbose=-1,
)


def parts(rows):
    """Returns masks of the training, validation and test rows."""
    share = np.array([(row * 0x9E3779B97F4A7C15 % 2**64) / 2**64 for row in range(rows)])
    return share >= 0.25, (share >= 0.1875) & (share < 0.25), share < 0.1875


def codes(values, train, min_count):
    """Numbers the frequent values of training in order of first appearance; 0 for all others."""
    counts = values[train].value_counts()
    frequent = [
        value for value in values[train].unique() if value != "" and counts[value] >= min_count
    ]
    return values.map({value: code for code, value in enumerate(frequent, 1)}).fillna(0).astype(int)


def multi_hot(bags, train, min_count):
    """Returns a column of 0 and 1 for each value that is frequent in training."""
    counts = bags[train].explode().value_counts()
    return pd.DataFrame(
        {f"has {v}": bags.map(lambda bag, v=v: v in bag) for v in counts[counts >= min_count].index}
    ).astype("int8")


def clothing():
    rows = pd.read_csv(DATA / "clothing/reviews.csv.gz", keep_default_na=False, dtype=str)
    train = parts(len(rows))[0]
    numbers = rows[["age", "positive_feedback"]].astype(float)
    categories = rows[["clothing_id", "division", "department", "class"]].apply(
        codes, args=(train, 2)
    )
    return (
        rows["recommended"].astype(int),
        numbers,
        categories,
        multi_hot(rows["words"].str.split().map(set), train, 5),
    )


def bank():
    rows = pd.read_csv(DATA / "bank/bank-full.csv", keep_default_na=False, dtype=str)
    train = parts(len(rows))[0]
    numbers = rows[["age", "balance", "day", "campaign", "pdays", "previous"]].astype(float)
    names = [
        "job",
        "marital",
        "education",
        "default",
        "housing",
        "loan",
        "contact",
        "month",
        "poutcome",
    ]
    return (
        (rows["y"] == "yes").astype(int),
        numbers,
        rows[names].apply(codes, args=(train, 1)),
        None,
    )


def movielens():
    movies = pd.read_csv(DATA / "movielens/movies.csv", dtype=str)
    rows = pd.read_csv(DATA / "movielens/ratings.csv", dtype=str).merge(
        movies, on="movieId", how="left"
    )
    train = parts(len(rows))[0]
    year = rows["title"].str.extract(r"\((\d{4})\)\s*$")[0].astype(float)
    count = lambda column: np.log1p(
        rows[column].map(rows.loc[train, column].value_counts()).fillna(0)
    )
    numbers = pd.DataFrame(
        {"user count": count("userId"), "movie count": count("movieId"), "year": year.fillna(1990)}
    )
    decade = (year // 10).fillna(-1).astype(int).astype(str)
    categories = pd.DataFrame(
        {"user": rows["userId"], "movie": rows["movieId"], "decade": decade}
    ).apply(codes, args=(train, 1))
    return (
        (rows["rating"].astype(float) >= 4).astype(int),
        numbers,
        categories,
        multi_hot(rows["genres"].str.split("|").map(set), train, 1),
    )


def housing():
    rows = pd.read_csv(DATA / "housing/housing.csv")
    label = rows.pop("MedHouseVal") >= 1.8
    return label.astype(int), rows, rows[[]], None


def settings(tuned, rows):
    """Returns the settings to try: those of everybody's first run, or a grid."""
    if not tuned:
        return [dict(num_leaves=31 if rows > 20000 else 15)]
    grid = itertools.product([0.02, 0.05], [15, 31, 63], [10, 20, 50])
    names = ("learning_rate", "num_leaves", "min_data_in_leaf")
    return [dict(zip(names, values)) for values in grid]


def main():
    names = [name for name in sys.argv[1:] if name != "--tuned"]
    tuned = len(names) < len(sys.argv) - 1
    for name in names or ["clothing", "bank", "movielens", "housing"]:
        labels, numbers, categories, multi = {
            "clothing": clothing,
            "bank": bank,
            "movielens": movielens,
            "housing": housing,
        }[name]()
        columns = pd.concat(
            [numbers, categories] + ([] if multi is None else [multi]), axis=1
        ).to_numpy(float)
        train, validation, test = parts(len(labels))
        native = list(range(numbers.shape[1], numbers.shape[1] + categories.shape[1]))
        kinds = [("categories as numbers", {})]
        if native:
            kinds.insert(0, ("native categories", dict(categorical_feature=native)))
        best = None
        for (kind, extra), chosen in itertools.product(kinds, settings(tuned, train.sum())):
            rows = lightgbm.Dataset(columns[train], labels[train], free_raw_data=False, **extra)
            held_out = lightgbm.Dataset(
                columns[validation], labels[validation], reference=rows, **extra
            )
            stop = lightgbm.early_stopping(50, verbose=False)
            model = lightgbm.train(
                PARAMETERS | chosen, rows, 2000, valid_sets=[held_out], callbacks=[stop]
            )
            score = model.best_score["valid_0"]["binary_logloss"]
            if best is None or score < best[0]:
                best = score, f"{kind}, {chosen}", model.predict(columns[test])
        _, kind, predictions = best
        auc, loss = roc_auc_score(labels[test], predictions), log_loss(labels[test], predictions)
        print(f"{name}: LightGBM ({kind}) test auc {auc:.4f} logloss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
