"""The classifier of data frames."""

import copy
import datetime
import json
import os
import pickle
import runpy
import subprocess
import sys
import warnings

import numpy as np
import pytest

import bagdot
from bagdot import _bagdot

from conftest import ROOT

pd = pytest.importorskip("pandas")

# The last rows have ids that the first ones lack, of which the classifier warns.
pytestmark = pytest.mark.filterwarnings("ignore:column .*were not among those")

COLUMNS = ["clothing_id", "age", "positive_feedback", "department", "words"]
FAST = {"epochs": 2, "bins": 16, "random_state": 1, "min_count": {"words": 5}}


def split(reviews):
    X, y = reviews[COLUMNS], reviews["recommended"]
    return X[:4500], y[:4500], X[4500:5000], y[4500:5000], X[5000:], y[5000:]


def make(**changes):
    arguments = {"categorical": ["clothing_id"], "bags": {"words": " "}, **FAST, **changes}
    return bagdot.Classifier(**arguments)


@pytest.fixture(scope="module")
def fitted(reviews):
    X, y, X_valid, y_valid, _, _ = split(reviews)
    return make().fit(X, y, eval_set=(X_valid, y_valid))


def auc(y, p):
    """The probability that a positive row is ranked above a negative one."""
    p, y = np.asarray(p), np.asarray(y)
    above = p[y == 1][:, None] - p[y == 0][None]
    return ((above > 0) + 0.5 * (above == 0)).mean()


def test_it_learns(fitted, reviews):
    _, _, X_valid, y_valid, X, y = split(reviews)
    p = fitted.predict_proba(X)
    assert p.shape == (1000, 2) and np.allclose(p.sum(1), 1)
    assert auc(y, p[:, 1]) > 0.85
    assert fitted.score(X, y) == np.mean(fitted.predict(X) == y) > 0.8
    assert fitted.classes_.tolist() == [0, 1]
    assert fitted.feature_names_in_.tolist() == COLUMNS and fitted.n_features_in_ == 5
    results = fitted.evals_result_
    assert len(results["validation"]["auc"]) == len(results["training"]["logloss"]) == 2
    # The best epoch is the one that was kept.
    best = fitted.best_epoch_ - 1
    assert results["validation"]["logloss"][best] == min(results["validation"]["logloss"])
    assert fitted.best_score_["auc"] == results["validation"]["auc"][best]
    assert auc(y_valid, fitted.predict_proba(X_valid)[:, 1]) == pytest.approx(
        fitted.best_score_["auc"], abs=1e-6
    )


def test_curves(fitted, tmp_path):
    curves = fitted.plot()
    assert len(curves.pictures) == 2 and "AUC by step" in curves._repr_html_()
    curves.save(tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().startswith("<svg")
    assert "<h2>Training</h2>" in fitted.report()


def test_every_data_frame_gives_the_same_model(fitted, reviews):
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    X, y, X_valid, y_valid, X_test, _ = split(reviews)
    want = fitted.predict_proba(X_test)
    for convert in (polars.from_pandas, pyarrow.Table.from_pandas):
        model = make().fit(convert(X), y.to_numpy(), eval_set=(convert(X_valid), y_valid.tolist()))
        np.testing.assert_array_equal(model.predict_proba(convert(X_test)), want)
    # Lists are the same bags as their text, and categories the same values as theirs.
    lists = [frame.assign(words=frame["words"].str.split(" ")) for frame in (X, X_valid, X_test)]
    lists = [frame.astype({"department": "category"}) for frame in lists]
    model = make(bags=None).fit(lists[0], y, eval_set=[(lists[1], y_valid)])
    np.testing.assert_array_equal(model.predict_proba(lists[2]), want)


def test_save_load_pickle_and_copy(fitted, reviews, tmp_path):
    X = split(reviews)[4]
    want = fitted.predict_proba(X)
    fitted.save(tmp_path / "model")
    fitted.save(tmp_path / "model")
    loaded = bagdot.Classifier.load(tmp_path / "model")
    assert loaded.get_params()["bags"] == {"words": " "}
    assert loaded.evals_result_ == fitted.evals_result_
    for other in (loaded, pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(other.predict_proba(X), want)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="holds no model"):
        fitted.save(tmp_path / "other")
    with pytest.raises(ValueError, match="no model here"):
        bagdot.Classifier.load(tmp_path / "other")


def test_models_are_those_of_the_program(fitted, reviews, tmp_path):
    """A configuration of the program gives the same model, which the classifier opens; and the
    program, if `BAGDOT_PROGRAM` names it, predicts with a model of the classifier."""
    X, y, X_valid, y_valid, X_test, _ = split(reviews)
    want = fitted.predict_proba(X_test)[:, 1]
    X.assign(recommended=y).to_csv(tmp_path / "train.csv", index=False)
    X_valid.assign(recommended=y_valid).to_csv(tmp_path / "validation.csv", index=False)
    X_test.to_csv(tmp_path / "test.csv", index=False)
    fitted.save(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "manifest.json").read_text())["config"]
    config = json.loads(json.dumps(config), object_hook=lambda d: {
        key: value for key, value in d.items() if value is not None
    })
    _bagdot.train(json.dumps(config), tmp_path, tmp_path / "theirs")
    theirs = bagdot.Classifier.load(tmp_path / "theirs")
    np.testing.assert_array_equal(theirs.predict_proba(X_test)[:, 1], want)
    assert theirs.feature_names_in_.tolist() == ["clothing_id", "department", "words", "age",
                                                 "positive_feedback"]
    program = os.environ.get("BAGDOT_PROGRAM")
    if program is None:
        pytest.skip("BAGDOT_PROGRAM is not set")
    command = [program, "predict", tmp_path / "ours", tmp_path / "test.csv", "--quiet"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    np.testing.assert_array_equal(np.array(lines, np.float32), want)


def test_the_conventions_of_scikit_learn(reviews):
    sklearn = pytest.importorskip("sklearn")
    from sklearn.base import is_classifier
    from sklearn.model_selection import cross_val_score

    model = make(epochs=1)
    assert repr(model).startswith("Classifier(categorical=['clothing_id'], bags={'words': ' '}")
    clone = sklearn.base.clone(model)
    assert clone is not model and clone.get_params() == model.get_params()
    assert clone.set_params(epochs=3).epochs == 3 and model.epochs == 1
    assert is_classifier(model)
    with pytest.raises(ValueError, match="epoch_count"):
        model.set_params(epoch_count=3)
    with pytest.raises(ValueError, match="not fitted"):
        model.predict(reviews)
    X, y = reviews[COLUMNS], reviews["recommended"]
    model.set_params(epochs=4, batch_size=64)
    scores = cross_val_score(model, X, y, cv=2, scoring="roc_auc", error_score="raise")
    assert scores.min() > 0.8


def test_types_of_columns():
    rng = np.random.default_rng(0)
    n = 400
    signal = rng.integers(0, 2, n)
    when = [datetime.datetime(2026, 1, 1) + datetime.timedelta(days=int(d)) for d in signal * 9]
    frame = pd.DataFrame({
        "number": np.where(rng.random(n) < 0.1, np.nan, signal + rng.random(n)),
        "truth": signal == 1,
        "when": when,
        "text": np.where(signal == 1, 'say "yes", or\nso', "no"),
        "kind": pd.Categorical(np.where(signal == 1, "a", "b")),
        "list": [["x", "y"] if s else [] for s in signal],
        "numbers": [[1, 2] if s else None for s in signal],
        "missing": [None] * n,
    })
    y = np.where(signal == 1, "yes", "no")
    model = bagdot.Classifier(epochs=4, bins=4, batch_size=32).fit(frame, y)
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.score(frame, y) > 0.95
    kinds = dict(_bagdot.Frame.from_arrow(frame).columns())
    assert kinds == {
        "number": "number", "truth": "number", "when": "number", "text": "text", "kind": "text",
        "list": "list", "numbers": "list", "missing": "number",
    }
    # Ids keep their texts where missing values have made them floats.
    ids = pd.DataFrame({"id": rng.integers(0, 5, n)})
    by_id = bagdot.Classifier(categorical=["id"], epochs=1).fit(ids, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_floats = by_id.predict_proba(ids.astype(float))
    np.testing.assert_array_equal(of_floats, by_id.predict_proba(ids))
    with pytest.warns(UserWarning, match="were not among those of training"):
        by_id.predict_proba(ids + 100)


def test_matrices_of_numbers():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 3))
    y = (X[:, 1] > 0).astype(int)
    model = bagdot.Classifier(epochs=5, batch_size=32).fit(X, y)
    assert model.feature_names_in_.tolist() == ["x0", "x1", "x2"]
    assert model.score(X, y) > 0.9
    np.testing.assert_array_equal(
        model.predict_proba(np.asfortranarray(X)), model.predict_proba(X)
    )


def test_wrong_arguments_are_named(reviews, fitted):
    X, y = reviews[COLUMNS].head(50), reviews["recommended"].head(50)

    def refuses(text, call, error=ValueError):
        with pytest.raises(error, match=text):
            call()

    refuses("3 classes", lambda: make().fit(X, np.arange(50) % 3))
    refuses("50 rows", lambda: make().fit(X, y[:-1]))
    refuses("missing in row 3", lambda: make().fit(X, np.where(np.arange(50) == 3, np.nan, y)))
    refuses("no column 'colour'", lambda: make(categorical=["colour"]).fit(X, y))
    refuses("epochz", lambda: make(train={"epochz": 3}).fit(X, y))
    refuses("one pair", lambda: make().fit(X, y, eval_set=[(X, y), (X, y)]))
    refuses("other classes", lambda: make().fit(X, y, eval_set=(X, y + 1)))
    refuses("device is \"gpu\"", lambda: make(device="gpu").fit(X, y))
    refuses("is no data frame", lambda: make().fit("rows.csv", y), TypeError)
    refuses("of type Struct", lambda: make(bags=None).fit(X.assign(words=[{"a": 1}] * 50), y),
            TypeError)
    lists = X.assign(words=[["a|b"]] * 50)
    by_list = make(bags=None)
    refuses(r"row 0, column \"words\".*contains the separator", lambda: by_list.fit(lists, y))
    refuses("\"age\"", lambda: fitted.predict(X.drop(columns="age")))


def test_an_interrupt_ends_training(tmp_path):
    program = f"""
import os, signal, threading, numpy as np, bagdot
X = np.random.default_rng(0).standard_normal((20000, 4))
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    bagdot.Classifier(epochs=100000, patience=0).fit(X, X[:, 0] > 0)
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stdout == "interrupted\n", run.stderr


def test_the_notebook(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    data, page = ROOT / "data" / "clothing" / "reviews.csv.gz", tmp_path / "curves.html"
    monkeypatch.setattr(sys, "argv", ["notebook.py", str(data), str(page)])
    runpy.run_path(str(ROOT / "python" / "examples" / "notebook.py"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert float(last.removeprefix("AUC on the test rows: ")) > 0.93
    assert page.read_text().count("<svg") == 2
