"""Files of weights that nobody should train from, each refused with what is wrong with it."""

import math
from pathlib import Path

import pytest
import torch

from cxr_common import checkpoint
from cxr_common.checkpoint import Header, Input
from cxr_common.models.foreign import read_foreign
from cxr_common.models.reading import refuse_unusable
from cxr_common.models.zoo import build
from cxr_data.errors import BadInput

HEADER = Header(
    "model", "test_resnet", Input(32, 0.5, 0.2), task="multilabel", labels=("a", "b"), thresholds=(0.5, 0.5)
)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: one.clone() for name, one in build("test_resnet", 2, size=32).state_dict().items()}


def variance(state):
    return next(name for name in state if name.endswith("running_var"))


def matrices(state):
    return [name for name, one in state.items() if one.ndim > 1]


DAMAGE = {
    "variance infinite": (lambda s: s[variance(s)].fill_(math.inf), "finite"),
    "variance undefined": (lambda s: s[variance(s)].fill_(math.nan), "finite"),
    "variance negative": (lambda s: s[variance(s)][:1].fill_(-1), "variances above 0"),
    "variance nowhere": (lambda s: s[variance(s)].zero_(), "variances above 0"),
    "one weight undefined": (lambda s: s[matrices(s)[2]].view(-1)[7:8].fill_(math.nan), "finite"),
    "zeros at the end": (lambda s: [s[name].zero_() for name in matrices(s)[-3:]], "zeros alone"),
    "integers": (lambda s: s.update({n: s[n].to(torch.int8) for n in matrices(s)}), "numbers with decimals"),
}


@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize("kind", DAMAGE)
def test_weights_that_no_network_can_be_used_with_are_refused(state, tmp_path, kind, foreign):
    damage, reason = DAMAGE[kind]
    damage(state)
    if foreign:
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(BadInput, match=reason):
            read_foreign(tmp_path / "w.pth", "test_resnet", size=32)
    else:
        checkpoint.save(tmp_path / "w.safetensors", state, HEADER)
        with pytest.raises(BadInput, match=reason):
            checkpoint.load(tmp_path / "w.safetensors")


def test_tokens_and_tables_may_be_zeros(state):
    names = ("mask_token", "cls_token", "blocks.0.attn.rel_pos_h", "blocks.0.attention_biases")
    refuse_unusable(state | {name: torch.zeros(1, 8) for name in names}, state, "file")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_other_depths_of_floats_are_read(state, tmp_path, kind):
    torch.save({n: one.to(kind) if one.is_floating_point() else one for n, one in state.items()}, tmp_path / "w.pth")
    foreign = read_foreign(tmp_path / "w.pth", "test_resnet", size=32).state
    name = matrices(state)[1]
    assert foreign[name].dtype == torch.float32
    torch.testing.assert_close(foreign[name], state[name].to(kind).float())


def test_tensors_without_numbers_are_named(state, tmp_path):
    torch.save({name: one.to("meta") for name, one in state.items()}, tmp_path / "w.pth")
    with pytest.raises(BadInput, match="without its numbers"):
        read_foreign(tmp_path / "w.pth", "test_resnet", size=32)


def test_bytes_overwritten_in_a_pytorch_file_are_seen(state, tmp_path):
    file = tmp_path / "w.pth"
    torch.save(state, file)
    data = bytearray(file.read_bytes())
    places = [len(data) * part // 10 for part in range(2, 9)]
    for at in places:
        overwritten = data.copy()
        overwritten[at : at + 4] = b"\x01\x02\x03\x04"
        Path(file).write_bytes(overwritten)
        with pytest.raises(BadInput, match="damaged one"):
            read_foreign(file, "test_resnet", size=32)


@pytest.mark.parametrize("changed", [{"dtype": "F99"}, {"shape": [1]}, {"data_offsets": [-4, 100]}])
def test_a_table_of_tensors_that_contradicts_itself_is_refused(state, tmp_path, changed):
    import json

    file = tmp_path / "w.safetensors"
    checkpoint.save(file, state, HEADER)
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:end])
    table[matrices(state)[0]] |= changed
    head = json.dumps(table).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + data[end:])
    with pytest.raises(BadInput):
        checkpoint.load(file)


@pytest.mark.parametrize(
    ("first", "second"), [("averaged_model.module.", "module."), ("swa_model.", "model."), ("teacher.", "student.")]
)
@pytest.mark.parametrize("turned", [True, False])
def test_the_average_is_taken_first_and_one_that_lacks_a_little_is_not_passed_over(
    state, tmp_path, first, second, turned, monkeypatch
):
    monkeypatch.setattr("cxr_common.models.foreign._advice", lambda foreign: "")
    torch.manual_seed(1)
    other = build("test_resnet", 2, size=32).state_dict()
    pairs = [(first, state), (second, other)]
    both = {prefix + n: one for prefix, part in (pairs[::-1] if turned else pairs) for n, one in part.items()}
    torch.save(both, tmp_path / "w.pth")
    foreign = read_foreign(tmp_path / "w.pth", "test_resnet", size=32)
    name = matrices(state)[1]
    assert torch.equal(foreign.state[name], state[name])
    assert (foreign.part, foreign.others) == (first[:-1], (second[:-1],))
    torch.save({n: one for n, one in both.items() if n != first + name}, tmp_path / "w.pth")
    with pytest.raises(BadInput, match="missing"):
        read_foreign(tmp_path / "w.pth", "test_resnet", size=32)
    asked = read_foreign(tmp_path / "w.pth", "test_resnet", size=32, part=second[:-1])
    assert torch.equal(asked.state[name], other[name])
