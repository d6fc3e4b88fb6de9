import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cxr_data.errors import BadInput
from cxr_data.models.header import KEY, Header, Input, describe, header_text, parent
from cxr_data.models.licences import (
    UNKNOWN,
    ancestors,
    card_fields,
    front_matter,
    is_loud,
    of_file,
    refuse_empty,
    restricted,
    trail,
)

NC = ("CC-BY-NC-4.0", "cc by-nc 4.0", "MSRLA", "Non-Commercial", "noncommercial", "research only", "NC")
FREE = ("MIT", "Apache-2.0", "CC-BY-4.0", "CC0-1.0", "BSD-3-Clause", "unknown", "ncsa", "since 2020")


@pytest.mark.parametrize("licence", NC)
def test_what_forbids_commercial_use(licence: str) -> None:
    assert restricted(licence)


@pytest.mark.parametrize("licence", FREE)
def test_what_does_not(licence: str) -> None:
    assert not restricted(licence)


def foreign(path: Path, **notes: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": np.zeros(len(path.name), np.float32)}, path, metadata=notes)
    return path


def ours(path: Path, licence: str | None, *parents: Path) -> Path:
    entries = tuple(parent(f"start-{number}", one) for number, one in enumerate(parents))
    header = Header("backbone", "resnet18", Input(32, 0.5, 0.2), parents=entries, licence=licence)
    return foreign(path, **{KEY: header_text(dataclasses.replace(header, ancestors=ancestors(entries)))})


def test_where_a_foreign_file_says_its_licence(tmp_path) -> None:
    assert of_file(foreign(tmp_path / "a" / "a.safetensors")) == {"licence": UNKNOWN, "source": ""}
    said = foreign(tmp_path / "b" / "b.safetensors", licence="MIT", source="a package")
    assert of_file(said) == {"licence": "MIT", "source": "a package"}
    card = foreign(tmp_path / "c" / "c.safetensors")
    card.with_name("README.md").write_text("---\nlicense: other\nlicense_name: dinov3\n---\n")
    assert of_file(card)["licence"] == "dinov3"
    timm = foreign(tmp_path / "d" / "d.safetensors")
    timm.with_name("config.json").write_text(json.dumps({"pretrained_cfg": {"license": "apache-2.0"}}))
    assert of_file(timm)["licence"] == "apache-2.0"
    cached = tmp_path / "models--owner--a--b" / "snapshots" / ("1" * 40) / "model.safetensors"
    assert of_file(foreign(cached))["source"] == "hf:owner/a--b@111111111111"


def test_a_file_of_ours_whose_licence_was_given_when_it_was_pushed(tmp_path) -> None:
    own = ours(tmp_path / "models--clinic--net" / "snapshots" / ("2" * 40) / "backbone.safetensors", None)
    assert of_file(own) == {"licence": UNKNOWN, "source": "hf:clinic/net@222222222222"}
    assert parent("teacher", own)["path"] == "clinic/net/backbone.safetensors"
    own.with_name("README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert of_file(own)["licence"] == "cc-by-nc-4.0"
    said = ours(tmp_path / "run" / "backbone.safetensors", "MIT")
    said.with_name("README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert of_file(said) == {"licence": "MIT", "source": "cxr resnet18"}


def test_a_licence_is_handed_down_over_all_generations(tmp_path) -> None:
    first = foreign(tmp_path / "rad" / "model.safetensors", licence="MSRLA", source="hf:org/rad")
    second = ours(tmp_path / "two" / "backbone.safetensors", "CC-BY-4.0", first)
    third = ours(tmp_path / "three" / "model.safetensors", None, second, foreign(tmp_path / "other.safetensors"))
    described = describe(third).ancestors
    assert [(one["name"], one["licence"]) for one in described] == [
        ("two/backbone.safetensors", "CC-BY-4.0"),
        ("rad/model.safetensors", "MSRLA"),
        ("other.safetensors", UNKNOWN),
    ]
    lines = trail(None, described)
    assert lines[0] == "licence: unknown"
    assert "made from rad/model.safetensors (hf:org/rad): licence MSRLA" in lines
    assert lines[-1].startswith("WARNING: NOT FOR COMMERCIAL USE: the licence of rad/model.safetensors")
    assert [is_loud(line) for line in lines] == [False] * 4 + [True]
    assert not any(map(is_loud, trail("MIT", described[2:])))
    assert trail("CC-BY-NC-4.0", described[2:])[-1] == "WARNING: NOT FOR COMMERCIAL USE: its licence forbids it"


def test_as_the_hub_takes_them() -> None:
    assert card_fields("CC BY 4.0") == {"license": "cc-by-4.0"}
    assert card_fields(None) == {"license": "unknown"}
    assert card_fields("RAD-DINO: MSRLA") == {"license": "other", "license_name": "rad-dino-msrla"}


@given(st.text())
def test_any_name_of_a_licence_becomes_a_field(name: str) -> None:
    fields = card_fields(name)
    assert set(fields) <= {"license", "license_name"}
    assert set(fields.get("license_name", "")) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")


def test_front_matter_that_is_none(tmp_path) -> None:
    path = tmp_path / "README.md"
    assert front_matter(path) == {}
    for text in ("# no matter", "---\n: [\n---\n", "---\n- a\n---\n", "---\nlicense: mit"):
        path.write_text(text)
        assert front_matter(path) == {}
    path.write_text("---\nlicense: mit\n---\n")
    assert front_matter(path) == {"license": "mit"}
    refuse_empty(None)
    with pytest.raises(BadInput, match="--licence"):
        refuse_empty(" ")
