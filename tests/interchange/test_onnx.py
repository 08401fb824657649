"""Exported ONNX models predict as the program does.

They need onnxruntime, numpy, safetensors and pytest; with onnx, graphs are checked, too.
"""

import pytest

numpy = pytest.importorskip("numpy")
onnxruntime = pytest.importorskip("onnxruntime")
load_file = pytest.importorskip("safetensors.numpy").load_file

from conftest import REVIEWS, bagdot, make_model, predictions  # noqa: E402

# Sums of f32 in another order: a prediction is a sum of at most a few hundred terms, whose rounding
# is far below this.
TOLERANCE = 1e-5


def export(model, *flags):
    """Exports a model. Returns the path of the ONNX model and a session that runs it."""
    path = model.parent / f"model{len(flags)}.onnx"
    bagdot("export", model, "--format", "onnx", "--output", path, *flags)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return path, session


def encode(model, data):
    """Returns rows as the inputs of the model."""
    path = model.parent / "rows.safetensors"
    bagdot("encode", model, data, "--output", path)
    return load_file(path)


def part(rows, start, end):
    """Returns the rows from `start` to `end`."""
    chosen = {}
    for name, values in rows.items():
        if name.endswith(".values"):
            continue
        if not name.endswith(".offsets"):
            chosen[name] = values[start:end]
            continue
        bounds, ids = values[start : end + 1], name.replace(".offsets", ".values")
        chosen[name], chosen[ids] = bounds - bounds[0], rows[ids][bounds[0] : bounds[-1]]
    return chosen


def run(session, rows):
    """Returns probabilities and logits."""
    return session.run(["probabilities", "logits"], rows)


def check(model):
    """Checks the graph of a model with the package onnx, if there is one."""
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(str(model), full_check=True)


def test_reviews_are_predicted_as_by_the_program(clothing):
    path, session = export(clothing)
    expected, rows = predictions(clothing, REVIEWS), encode(clothing, REVIEWS)
    assert {i.name for i in session.get_inputs()} == set(rows)
    got, logits = run(session, rows)
    assert got.shape == (23486,) and logits.shape == (23486, 3)
    assert numpy.abs(got - expected).max() < TOLERANCE
    # Some rows have no word that the model knows: their bags are empty.
    assert (numpy.diff(rows["words.offsets"]) == 0).any()
    assert expected.std() > 1000 * TOLERANCE, "the rows are too alike to show much"
    mean = (1 / (1 + numpy.exp(-logits.astype(float)))).mean(axis=1)
    assert numpy.abs(got - mean).max() < 1e-6
    # Batches of any size, without rows, too.
    for start, end in [(0, 1), (5, 5), (17, 17 + 321), (23000, 23486)]:
        some, _ = run(session, part(rows, start, end))
        assert some.shape == (end - start,)
        assert numpy.abs(some - got[start:end]).max(initial=0) < TOLERANCE
    check(path)


def test_wrong_inputs_change_the_predictions(clothing):
    # The comparison above can fail: one other id is enough.
    _, session = export(clothing)
    rows = part(encode(clothing, REVIEWS), 0, 100)
    before, _ = run(session, rows)
    rows["clothing_id"] = rows["clothing_id"].copy()
    rows["clothing_id"][7] += 1
    after, _ = run(session, rows)
    assert list(numpy.flatnonzero(before != after)) == [7]


def test_weights_may_stand_in_a_file_of_their_own(clothing):
    inside, session = export(clothing)
    expected, _ = run(session, rows := encode(clothing, REVIEWS))
    outside, session = export(clothing, "--external-data")
    data = outside.with_name(outside.name + ".data")
    # A small model is mostly its graph.
    assert inside.stat().st_size > outside.stat().st_size
    assert data.stat().st_size > inside.stat().st_size - outside.stat().st_size
    got, _ = run(session, rows)
    assert (got == expected).all()
    check(outside)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"price": "knots = 9"},
        {"model": "append_sparse = true\ninclude_self = true", "members": 2, "price": "knots = 30"},
        {"model": 'pair_order = "upper_triangle"', "tags": "mean", "words": "max"},
        {"model": 'interaction = "cat"', "tags": "max", "words": "mean"},
        {"model": 'table_dtype = "f16"', "tags": "max", "words": "max"},
        {"model": 'table_dtype = "bf16"', "tags": "mean", "price": "knots = 2"},
    ],
)
def test_every_setting_is_exported(tmp_path, settings):
    model, data = make_model(tmp_path, **settings), tmp_path / "clicks.csv"
    expected, rows = predictions(model, data), encode(model, data)
    path, session = export(model)
    got, _ = run(session, rows)
    assert numpy.abs(got - expected).max() < TOLERANCE
    assert expected.std() > 1000 * TOLERANCE, "the rows are too alike to show much"
    last, _ = run(session, part(rows, 1500, 1503))
    assert numpy.abs(last - expected[1500:]).max() < TOLERANCE, "empty bags at the end"
    check(path)


def test_a_layer_in_16_bits_is_exported_in_32(tmp_path):
    model, data = make_model(tmp_path, model='precision = "bf16"'), tmp_path / "clicks.csv"
    expected = predictions(model, data)
    got, _ = run(export(model)[1], encode(model, data))
    # bf16 has 8 bits.
    assert TOLERANCE < numpy.abs(got - expected).max() < 2**-5
