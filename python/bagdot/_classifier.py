"""A classifier of data frames, in the manner of scikit-learn and LightGBM."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import _bagdot

_META = "classifier.json"
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .-]*")


class Classifier:
    """A DLRM that predicts which of two classes a row of a data frame belongs to.

    Rows come in any data frame with `__arrow_c_stream__` (pandas, polars, pyarrow, duckdb), or as a
    matrix of numbers. The types of the columns say what they are: numbers, dates and truth values
    are dense features; texts and categories are looked up in tables; lists are bags of ids.

    A model is a model directory of the program `bagdot`: `save` writes one, `load` opens any, and
    `bagdot predict` takes what `save` wrote.

    Parameters
    ----------
    categorical: names of columns of numbers that are ids.
    dense: names of the dense columns; all columns of numbers unless given.
    bags: texts that are lists, with the separator of their items: `{"words": " "}`.
    separator: the text between the items of columns of lists, in files of the program.
    min_count: the number of rows in which a value must occur to have a row of its own; one number,
        or one for each column by name.
    hash: the number of rows of columns without a dictionary, by name.
    transform: the transforms of dense columns; one list, or one for each column by name.
    bins: the number of quantile bins of dense columns, which are features of their own; one number,
        or one for each column by name.
    bottom_mlp, top_mlp: the sizes of the layers; `bottom_mlp` ends with the tables' dimension.
    learning_rate, optimizer: the rate and the kind (`"sgd"`, `"adagrad"`, `"rowwise_adagrad"`,
        `"adam"`) for tables and layers; the defaults of the program unless given.
    epochs, batch_size: the passes over the rows, and the rows of a step.
    patience: the number of evaluations without a better validation score after which training
        stops.
    members: the number of models whose mean probability is predicted.
    validation_fraction: the share of the rows that stop training if there is no `eval_set`.
    model, train: further settings of the program's `[model]` and `[train]`.
    random_state: the seed.
    device: `"cpu"`, `"cuda"` or `"cuda:N"`.
    n_jobs: the number of threads; all unless given. Results do not depend on it.
    verbose: 1 for a line after each epoch.

    Attributes
    ----------
    classes_, feature_names_in_, n_features_in_: as in scikit-learn.
    evals_result_: the metrics after each epoch: `evals_result_["validation"]["auc"]`.
    best_epoch_, best_score_: the epoch that was kept, and its metrics on the validation rows.
    notes_: remarks on the data that deserve a look.
    """

    _estimator_type = "classifier"

    def __init__(
        self,
        *,
        categorical: Sequence[str] | None = None,
        dense: Sequence[str] | None = None,
        bags: Mapping[str, str] | None = None,
        separator: str = "|",
        min_count: int | Mapping[str, int] = 1,
        hash: Mapping[str, int] | None = None,
        transform: Any = None,
        bins: int | Mapping[str, int] = 64,
        bottom_mlp: Sequence[int] = (32, 16),
        top_mlp: Sequence[int] = (64, 32),
        learning_rate: float | None = None,
        optimizer: str | None = None,
        epochs: int = 15,
        batch_size: int = 256,
        patience: int = 3,
        members: int = 1,
        validation_fraction: float = 0.1,
        model: Mapping[str, Any] | None = None,
        train: Mapping[str, Any] | None = None,
        random_state: int | None = None,
        device: str = "cpu",
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.categorical = categorical
        self.dense = dense
        self.bags = bags
        self.separator = separator
        self.min_count = min_count
        self.hash = hash
        self.transform = transform
        self.bins = bins
        self.bottom_mlp = bottom_mlp
        self.top_mlp = top_mlp
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.members = members
        self.validation_fraction = validation_fraction
        self.model = model
        self.train = train
        self.random_state = random_state
        self.device = device
        self.n_jobs = n_jobs
        self.verbose = verbose

    # The conventions of scikit-learn, which is not needed for them.

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Returns the parameters."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Classifier:
        """Sets parameters, which take effect with the next `fit`."""
        unknown = set(params) - set(self._names())
        if unknown:
            raise ValueError(f"no parameters of a Classifier: {', '.join(sorted(unknown))}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(multi_class=False),
            input_tags=InputTags(allow_nan=True, categorical=True, string=True),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if not _same(value, defaults[name].default)
        ]
        return f"Classifier({', '.join(changed)})"

    def fit(self, X: Any, y: Any, eval_set: Any = None) -> Classifier:
        """Trains on the rows of `X` and their classes `y`.

        `eval_set` is a pair `(X, y)`, or a list of one. After each epoch its rows are measured, and
        the best epoch's model is kept.
        """
        frame = _frame(X, None)
        labels = _labels(y, len(frame))
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) != 2:
            raise ValueError(f"y has {len(classes)} classes, but must have two")
        columns, data = self._columns(frame)
        name = _label_name(y, {name for name, _ in frame.columns()})
        texts = [_text(value) for value in classes.tolist()]
        data["label"] = name if texts == ["0", "1"] else f"{name} = {texts[1]}"
        folder = tempfile.TemporaryDirectory(prefix="bagdot-")
        rows = Path(folder.name) / "rows"
        rows.mkdir()

        def write(file: str, frame: _bagdot.Frame, codes: Any) -> str:
            path = rows / file
            # A column of the same name as the label is not written twice.
            frame.write(path, columns, (name, tuple(texts), codes.astype(np.uint8).tobytes()))
            return file

        data["train"] = write("train.csv", frame, codes)
        if eval_set is None:
            share = float(self.validation_fraction)
            data["split"] = {"by": "hash", "validation": share, "test": 0.0}
        else:
            other, of_other = _one_pair(eval_set)
            other = _frame(other, [name for name, _ in columns])
            found = _labels(of_other, len(other))
            if not np.isin(found, classes).all():
                raise ValueError(f"eval_set has other classes than {classes.tolist()}")
            codes = np.searchsorted(classes, found)
            data["validation"] = write("validation.csv", other, codes)
            data["split"] = {"by": "file"}
        config = json.dumps(self._config(data))
        out = Path(folder.name) / "model"
        threads = None if self.n_jobs in (None, -1) else self.n_jobs
        self.notes_ = _bagdot.train(
            config,
            rows,
            out,
            device=self.device,
            threads=threads,
            on_evaluation=_print_evaluation if self.verbose else None,
        )
        shutil.rmtree(rows)
        self._folder = folder
        self._open(out)
        self.classes_ = classes
        self.feature_names_in_ = np.array([name for name, _ in columns], dtype=object)
        self.n_features_in_ = len(columns)
        return self

    def _columns(self, frame: _bagdot.Frame) -> tuple[list, dict[str, Any]]:
        """Returns the columns to be read, and their settings in the words of the program."""
        bags, ids = dict(self.bags or {}), set(self.categorical or ())
        wanted = None if self.dense is None else set(self.dense)
        kinds = dict(frame.columns())
        for name in [*bags, *ids, *(wanted or ())]:
            if name not in kinds:
                raise ValueError(f"X has no column {name!r}; it has {', '.join(kinds)}")
        columns, dense, categorical = [], [], []
        for name, kind in frame.columns():
            separator = bags.get(name) or (self.separator if kind == "list" else None)
            is_dense = kind == "number" and name not in ids and separator is None
            if is_dense and wanted is not None and name not in wanted:
                continue
            columns.append((name, separator))
            if is_dense:
                settings = {
                    "column": name,
                    "transform": _each(self.transform, name, None),
                    "bins": _each(self.bins, name, 0),
                }
                dense.append(_given(settings))
            else:
                settings = {
                    "column": name,
                    "separator": separator,
                    "min_count": _each(self.min_count, name, None),
                    "hash": (self.hash or {}).get(name),
                }
                categorical.append(_given(settings))
        return columns, {"dense": dense, "categorical": categorical}

    def _config(self, data: Mapping[str, Any]) -> dict[str, Any]:
        train: dict[str, Any] = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "patience": self.patience,
            "members": self.members,
            "seed": self.random_state,
        }
        rule = _given({"kind": self.optimizer, "learning_rate": self.learning_rate})
        if rule:
            train["optimizer"] = rule
        model = {"bottom_mlp": list(self.bottom_mlp), "top_mlp": list(self.top_mlp)}
        return {
            "data": data,
            "model": {**model, **(self.model or {})},
            "train": {**_given(train), **(self.train or {})},
        }

    def _open(self, path: Path) -> None:
        threads = None if self.n_jobs in (None, -1) else self.n_jobs
        self._model = _bagdot.Model(path, device=self.device, threads=threads)
        self._path = path
        progress = json.loads(self._model.manifest)["progress"]
        results: dict[str, dict[str, list]] = {}
        for record in progress["history"]:
            for part, key in [("training", "train"), ("validation", "validation")]:
                for metric in ("logloss", "auc", "accuracy"):
                    if record[key] is not None:
                        results.setdefault(part, {}).setdefault(metric, [])
                        results[part][metric].append(record[key][metric])
        self.evals_result_ = results
        self.best_epoch_ = progress["best_epoch"]
        best = [record for record in progress["history"] if record["best"]]
        self.best_score_ = (best[-1]["validation"] or best[-1]["train"]) if best else None

    def _check_fitted(self) -> None:
        if not hasattr(self, "_model"):
            raise ValueError("this Classifier is not fitted yet: call `fit`, or `load` a model")

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probabilities of both classes, `[rows, 2]`."""
        self._check_fitted()
        probabilities, unknown = self._model.predict(_frame(X, list(self.feature_names_in_)))
        for text in unknown:
            warnings.warn(text, stacklevel=2)
        positive = np.asarray(probabilities)
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Returns the likelier class of each row."""
        positive = self.predict_proba(X)[:, 1]
        return self.classes_[(positive > 0.5).astype(int)]

    def score(self, X: Any, y: Any) -> float:
        """Returns the share of rows whose class is predicted."""
        predicted = self.predict(X)
        return float(np.mean(predicted == _labels(y, len(predicted))))

    def save(self, path: Any) -> None:
        """Writes the model to a directory, which `load` and the program `bagdot` open."""
        self._check_fitted()
        path = Path(path)
        if path.exists() and any(path.iterdir()) and not (path / "manifest.json").exists():
            raise ValueError(f"{path} is not empty and holds no model: choose another directory")
        if path.exists():
            shutil.rmtree(path)
        shutil.copytree(self._path, path, ignore=shutil.ignore_patterns(".lock"))
        meta = {
            "params": self.get_params(),
            "classes": self.classes_.tolist(),
            "columns": list(self.feature_names_in_),
        }
        (path / _META).write_text(json.dumps(meta, default=_plain, indent=2) + "\n")

    @classmethod
    def load(cls, path: Any, **params: Any) -> Classifier:
        """Opens a model directory: one of `save`, or one of the program. `params` are parameters
        that replace the stored ones, such as `device`."""
        path = Path(path)
        meta: dict[str, Any] = {}
        if (path / _META).exists():
            meta = json.loads((path / _META).read_text())
        classifier = cls(**{**meta.get("params", {}), **params})
        classifier._open(path.absolute())
        config = json.loads(classifier._model.manifest)["config"]["data"]
        columns = [c["column"] for c in config["categorical"] + config["dense"]]
        columns = meta.get("columns", list(dict.fromkeys(columns)))
        classifier.classes_ = np.array(meta.get("classes", [0, 1]))
        classifier.feature_names_in_ = np.array(columns, dtype=object)
        classifier.n_features_in_ = len(columns)
        classifier.notes_ = []
        return classifier

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("_model", "_folder", "_path")}
        if hasattr(self, "_model"):
            files = [file for file in Path(self._path).iterdir() if file.is_file()]
            state["_files"] = {f.name: f.read_bytes() for f in files if f.name != ".lock"}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        self.__dict__.update(state)
        if files is not None:
            self._folder = tempfile.TemporaryDirectory(prefix="bagdot-")
            for name, content in files.items():
                (Path(self._folder.name) / name).write_bytes(content)
            self._open(Path(self._folder.name))

    def __deepcopy__(self, memo: dict) -> Classifier:
        copy = type(self).__new__(type(self))
        copy.__setstate__(self.__getstate__())
        return copy

    def plot(self) -> Curves:
        """Returns the curves of the training, which a notebook shows: log-loss and AUC at each
        evaluation."""
        self._check_fitted()
        report = Path(self._path) / "report.html"
        text = report.read_text() if report.exists() else ""
        return Curves(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))

    def report(self) -> str:
        """Returns the report of the training, a page of HTML."""
        self._check_fitted()
        return (Path(self._path) / "report.html").read_text()


class Curves:
    """Pictures as SVG, which a notebook shows side by side."""

    def __init__(self, pictures: list[str]) -> None:
        self.pictures = pictures

    def _repr_html_(self) -> str:
        return "".join(self.pictures)

    def save(self, path: Any) -> None:
        """Writes the pictures as a page of HTML, or the first of them to a file `.svg`."""
        path = Path(path)
        path.write_text(self.pictures[0] if path.suffix == ".svg" else self._repr_html_())


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and value == default)


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _each(setting: Any, name: str, default: Any) -> Any:
    return setting.get(name, default) if isinstance(setting, Mapping) else setting


def _one_pair(eval_set: Any) -> tuple[Any, Any]:
    pairs = eval_set if isinstance(eval_set, list) else [eval_set]
    if len(pairs) != 1 or len(pairs[0]) != 2:
        raise ValueError("eval_set must be one pair (X, y)")
    return pairs[0]


def _frame(X: Any, names: list[str] | None) -> _bagdot.Frame:
    """Takes over a data frame, or a matrix whose columns are called x0, x1, and so on."""
    if hasattr(X, "__arrow_c_stream__"):
        return _bagdot.Frame.from_arrow(X)
    if hasattr(X, "columns") or isinstance(X, str):
        raise TypeError(
            f"a {type(X).__name__} is no data frame with `__arrow_c_stream__`: "
            "update its library, or convert it to polars or pyarrow"
        )
    matrix = np.asarray(X, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError("X must be a data frame, or a matrix of numbers")
    names = names or [f"x{k}" for k in range(matrix.shape[1])]
    return _bagdot.Frame.from_matrix([str(name) for name in names], matrix)


def _labels(y: Any, rows: int) -> np.ndarray:
    labels = np.asarray(y.to_numpy() if hasattr(y, "to_numpy") else y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (rows,):
        raise ValueError(f"y has the shape {labels.shape}, but X has {rows} rows")
    if labels.dtype.kind in "fO":
        missing = [value is None or value != value for value in labels.tolist()]
        if any(missing):
            raise ValueError(f"y is missing in row {missing.index(True)}")
    return labels


def _label_name(y: Any, taken: set[str]) -> str:
    """Returns the name of the label's column: that of `y`, if the program can read it."""
    name = getattr(y, "name", None)
    if isinstance(name, str) and _PLAIN_NAME.fullmatch(name) and name not in taken:
        return name.strip()
    name = "label"
    while name in taken:
        name += "_"
    return name


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else list(value)


def _print_evaluation(record: str) -> None:
    measured = json.loads(record)
    name = "training" if measured["validation"] is None else "validation"
    metrics = measured["validation"] or measured["train"]
    auc = "–" if metrics["auc"] is None else f"{metrics['auc']:.4f}"
    mark = "  *" if measured["best"] else ""
    passes = measured["epoch"] - 1 + measured["share_of_epoch"]
    print(f"epoch {passes:.4g}: {name} logloss {metrics['logloss']:.4f}, AUC {auc}{mark}")
