import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from cxr_common.checkpoint import Header, Input, describe, load, metadata, parent, provenance, save, to_bytes
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.errors import BadInput
from cxr_data.files import sha256


def header(**changes) -> Header:
    values = Header(
        kind="model",
        architecture="test_resnet",
        input=Input(32, 0.48, 0.23, pixels={"window": "full", "aspect": "squash"}),
        task="multilabel",
        labels=("effusion", "nodule"),
        thresholds=(0.25, 0.75),
        calibration={"temperature": 1.5},
        config={"lr": 0.1, "loss": {"kd": 1.0}},
        cohort={"name": "phantom", "fingerprint": "0" * 64},
        seed=3,
        metrics={"val_auroc": 0.9},
        **provenance(),
    )
    return replace(values, **changes)


@pytest.fixture
def network() -> GrayNetwork:
    torch.manual_seed(0)
    network = GrayNetwork(build("test_resnet", 2, size=32), 0.48, 0.23)
    network(torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8))  # batch statistics that are not the initial ones
    return network.eval()


def test_a_file_alone_gives_back_the_network(tmp_path, network) -> None:
    digest = save(tmp_path / "model.safetensors", network, header())
    assert digest == sha256(tmp_path / "model.safetensors")
    again, actual = load(tmp_path / "model.safetensors", kind="model")
    assert actual == header()
    assert not again.training
    pixels = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    assert torch.equal(again(pixels), network(pixels))


def test_same_content_same_bytes(tmp_path, network) -> None:
    assert save(tmp_path / "a.safetensors", network, header()) == save(tmp_path / "b.safetensors", network, header())


def test_describe_reads_no_weights_and_imports_no_torch(tmp_path, network) -> None:
    save(tmp_path / "m.safetensors", network, header())
    code = (
        "import sys; from cxr_common.checkpoint import describe; "
        f"print(describe({str(tmp_path / 'm.safetensors')!r}).labels, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('effusion', 'nodule') False"


def test_parents_and_provenance(tmp_path, network) -> None:
    save(tmp_path / "t.safetensors", network, header())
    entry = parent("teacher", tmp_path / "t.safetensors")
    save(tmp_path / "s.safetensors", network, header(parents=(entry,)))
    described = describe(tmp_path / "s.safetensors")
    assert described.parents[0]["sha256"] == sha256(tmp_path / "t.safetensors")
    assert described.versions["torch"] == torch.__version__.split("+")[0]
    assert described.git is None or len(described.git.removesuffix("+dirty")) == 40


def test_the_wrong_kind(tmp_path, network) -> None:
    save(tmp_path / "m.safetensors", network, header())
    with pytest.raises(BadInput, match="kind backbone, found kind model"):
        load(tmp_path / "m.safetensors", kind="backbone")
    backbone = build("test_resnet", 0, size=32)
    save(tmp_path / "b.safetensors", backbone, header(kind="backbone", task=None, labels=(), thresholds=None))
    with pytest.raises(BadInput, match="finetune"):
        load(tmp_path / "b.safetensors", kind="model")
    features = load(tmp_path / "b.safetensors", kind="backbone")[0](torch.zeros(1, 1, 32, 32))
    assert features.shape == (1, backbone.num_features)


def wrong_tables() -> Iterator[bytes]:
    """Files of 8 bytes of numbers whose tables do not describe them."""
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for change in (
        {"dtype": "F33"},
        {"dtype": "F16"},
        {"dtype": ""},
        {"shape": [-1, -2]},
        {"shape": [3]},
        {"shape": 2},
    ):
        yield with_table({"a": good | change})
    yield with_table({"a": good, "b": good})
    yield with_table({"a": good | {"shape": [1], "data_offsets": [4, 8]}})
    yield with_table({"cxr.training_images.64": good})
    yield with_table({"cxr.training_images.x": good | {"dtype": "I64", "shape": [1]}})
    yield with_table({"cxr.training_images.likeness.16": good | {"dtype": "I64", "shape": [1]}})


def with_table(table: dict[str, object]) -> bytes:
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/cxr-was-here",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(Evil()), "pickle"),
        (b"PK\x03\x04rest of a zip", "pickle"),
        (b"", "0 bytes"),
        (b"\xff" * 64, "64 bytes"),
        (b"\x10" + b"\0" * 7 + b"not json at all!", "something else"),
        (b"\x07" + b"\0" * 7 + b'{"a":1}', "something else"),
        (b"\x11" + b"\0" * 7 + b'{"a":{"dtype":1}}', "something else"),
        *((table, "something else") for table in wrong_tables()),
    ],
)
def test_what_is_no_safetensors_file(tmp_path, content, says) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=says):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kept", [4, 300, -1, -1000])
def test_truncated(tmp_path, network, kept) -> None:
    save(tmp_path / "m.safetensors", network, header())
    content = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(content[:kept])
    with pytest.raises(BadInput, match="truncated"):
        load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("length", [0x80, 0x4B50])
def test_a_table_whose_length_looks_like_a_pickle_is_still_read(tmp_path, length) -> None:
    table = b'{"__metadata__":{"a":"b"}}'.ljust(length)
    (tmp_path / "x.safetensors").write_bytes(length.to_bytes(8, "little") + table)
    assert metadata(tmp_path / "x.safetensors") == {"a": "b"}


def test_missing_foreign_and_newer_files(tmp_path, network) -> None:
    with pytest.raises(BadInput, match="nothing there"):
        describe(tmp_path / "no.safetensors")
    with pytest.raises(BadInput, match="expected"):
        describe(tmp_path)
    save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(BadInput, match="without our header"):
        describe(tmp_path / "foreign.safetensors")
    save(tmp_path / "new.safetensors", network, header(schema=99))
    with pytest.raises(BadInput, match="schema 99"):
        describe(tmp_path / "new.safetensors")
    save_file({"w": torch.zeros(2)}, tmp_path / "odd.safetensors", metadata={"cxr": json.dumps({"schema": 1})})
    with pytest.raises(BadInput, match="complete header"):
        describe(tmp_path / "odd.safetensors")


def test_weights_that_do_not_fit_their_own_header(tmp_path, network) -> None:
    save(tmp_path / "m.safetensors", network, header(labels=("a", "b", "c"), thresholds=None))
    with pytest.raises(BadInput, match="size mismatch"):
        load(tmp_path / "m.safetensors")


def test_many_notes_come_in_one_order(tmp_path) -> None:
    tensors = {"b": torch.arange(6).reshape(2, 3), "a": torch.rand(3).half()}
    notes = {str(number): "é" * number for number in range(20)}
    made = to_bytes(tensors, notes)
    assert made == to_bytes(dict(reversed(tensors.items())), dict(reversed(notes.items())))
    file = tmp_path / "w.safetensors"
    file.write_bytes(made)
    assert metadata(file) == notes
    actual = load_file(file)
    assert all(torch.equal(actual[name], tensor) for name, tensor in tensors.items())


def test_parents_are_named_without_the_places_of_this_machine(tmp_path) -> None:
    for name, expected in (("theirs.pth", "theirs.pth"), ("r/teacher/model.safetensors", "teacher/model.safetensors")):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        assert parent("start", file)["path"] == expected
