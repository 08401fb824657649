"""Reads the events of a run with TensorBoard's own reader."""

import json
import struct
import subprocess

import pytest
from conftest import bagdot, make_model, program

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing import event_accumulator, event_file_loader  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with evaluations within epochs and its events: the folder and `metrics.jsonl`."""
    folder = tmp_path_factory.mktemp("run")
    make_model(folder)
    config = (folder / "clicks.toml").read_text()
    (folder / "fine.toml").write_text(config + "\nevaluate_every = { steps = 10 }\n")
    bagdot("train", "fine.toml", "--out", "m", "--quiet", "--tensorboard", "logs", folder=folder)
    lines = (folder / "m" / "metrics.jsonl").read_text().splitlines()
    return folder, [json.loads(line) for line in lines]


def scalars(folder):
    events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def single(value):
    """Returns a number rounded to 32 bits, as events hold it."""
    return struct.unpack("f", struct.pack("f", value))[0]


def test_the_scalars_are_the_metrics_of_the_run(run):
    folder, lines = run
    *evaluations, outcome = lines
    found = scalars(folder / "logs")
    for part, key in [("training", "train"), ("validation", "validation")]:
        for metric in ["auc", "logloss", "ne", "calibration", "accuracy"]:
            events = found[f"{metric}/{part}"]
            expected = [(line["step"], single(line[key][metric])) for line in evaluations]
            assert [(event.step, event.value) for event in events] == expected
    assert len(evaluations) > 10
    [auc] = found["auc/test"]
    assert (auc.step, auc.value) == (outcome["best_step"], single(outcome["test"]["auc"]))
    times = [event.wall_time for event in found["auc/training"]]
    assert times == sorted(times) and times[0] > 1.7e9


def test_every_checksum_is_right(run, tmp_path):
    folder, _ = run
    [path] = (folder / "logs").iterdir()
    data = path.read_bytes()
    whole = list(event_file_loader.LegacyEventFileLoader(str(path)).Load())
    assert whole[0].file_version == "brain.Event:2"
    # The reader stops at a record whose checksum is wrong.
    at = data.index(b"logloss/training") + 3
    broken = tmp_path / "events.out.tfevents.1.broken"
    broken.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    loader = event_file_loader.LegacyEventFileLoader(str(broken))
    assert len(list(loader.Load())) < len(whole)


def test_a_resumed_run_has_each_step_once(run):
    folder, lines = run
    arguments = ["train", "fine.toml", "--quiet", "--tensorboard", "again", "--out", "again-m"]
    process = subprocess.Popen([program(), *arguments], cwd=folder)
    manifest = folder / "again-m" / "manifest.json"
    while not manifest.exists() or len(json.loads(manifest.read_text())["files"]) < 3:
        assert process.poll() is None
    process.kill()
    process.wait()
    bagdot(*arguments, "--resume", folder=folder)
    expected = [line["step"] for line in lines[:-1]]
    found = scalars(folder / "again")["logloss/validation"]
    assert [event.step for event in found] == expected
    assert len(list((folder / "again").iterdir())) == 2
