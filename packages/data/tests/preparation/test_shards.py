import json
import shutil

import numpy as np
import pytest

from cxr_data import load, open_cohort, prepare, read_image
from cxr_data.cli import main
from cxr_data.errors import BadInput
from cxr_data.preparation.prepare import plan
from cxr_data.preparation.selection import Selection
from cxr_data.preparation.shards import merge, parse_shard, prepare_shard, shards_beside


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(("count", "bits"), [(1, 8), (3, 8), (7, 16)])
def test_shards_put_together_are_the_cohort_made_in_one_go(two_classes, tmp_path, count, bits):
    for image in ("COVID/patient16_0.png", "NORMAL/patient3_1.png"):
        (two_classes / image).write_bytes(b"")
    options = {"pixel_size": 32, "max_bad": 0.05, "bits": bits, "selection": Selection(labels=("COVID", "NORMAL"))}
    prepare(two_classes, tmp_path / "whole", show=False, **options)
    settings = plan(two_classes, **options)
    for number in range(count, 0, -1):
        prepare_shard(settings, tmp_path / "merged", number, count, show=False)
    shards = shards_beside(tmp_path / "merged")
    assert len(shards) == count
    sizes = [len(np.load(shard / "pixels.npy", mmap_mode="r")) for shard in shards]
    assert sum(sizes) == 60
    assert max(sizes) - min(sizes) <= 1
    merge(shards[::-1], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert merge(shards, tmp_path / "merged").fingerprint == load(tmp_path / "whole").fingerprint


def test_the_commands_of_an_array_job(two_classes, tmp_path, capsys):
    out = str(tmp_path / "cohort")
    for number in (1, 2):
        command = ["prepare", str(two_classes), "--size", "28", "--out", out, "--shard", f"{number}/2"]
        assert main(command) == 0
        assert f"cxr-data merge --out {out}" in capsys.readouterr().out
        assert main(command) == 0  # done: only named again
    assert main(["merge", "--out", out]) == 0
    assert "60 images of 32 x 32" in capsys.readouterr().out
    assert main(["prepare", str(two_classes), "--size", "28", "--out", str(tmp_path / "whole")]) == 0
    assert contents(tmp_path / "cohort") == contents(tmp_path / "whole")


def test_what_does_not_belong_together_is_refused(two_classes, tmp_path):
    settings = plan(two_classes, pixel_size=32)
    one, two = (prepare_shard(settings, tmp_path / "c", number, 2, show=False) for number in (1, 2))
    with pytest.raises(BadInput, match="all 2 shards, found none of 1/2"):
        merge([two], tmp_path / "c")
    other = prepare_shard(plan(two_classes, pixel_size=48), tmp_path / "d", 1, 2, show=False)
    with pytest.raises(BadInput, match="shards of one cohort"):
        merge([other, two], tmp_path / "c")
    with pytest.raises(BadInput, match=r"a shard \(shard.json\), found none"):
        merge([tmp_path], tmp_path / "c")
    np.save(one / "pixels.npy", np.zeros((3, 32, 32), np.uint8))
    with pytest.raises(BadInput, match="prepare it again"):
        merge([one, two], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    shutil.rmtree(one)
    prepare_shard(settings, tmp_path / "c", 1, 2, show=False)
    (two_classes / "NORMAL" / "patient0_0.png").unlink()
    with pytest.raises(BadInput, match="a changed one"):
        merge([one, two], tmp_path / "c")


def test_broken_images_are_counted_over_all_shards(two_classes, tmp_path):
    for image in ("COVID/patient16_0.png", "NORMAL/patient3_1.png"):
        (two_classes / image).write_bytes(b"")
    settings = plan(two_classes, pixel_size=32)
    shards = [prepare_shard(settings, tmp_path / "c", number, 2, show=False) for number in (1, 2)]
    named = [json.loads((shard / "shard.json").read_text())["broken"] for shard in shards]
    assert [list(reasons.values()) for reasons in named] == [["zero bytes"], ["zero bytes"]]
    with pytest.raises(BadInput, match="at most 1 broken images of 60, found 2"):
        merge(shards, tmp_path / "c")


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/4/2", "a/b", "-1/4"])
def test_shards_are_counted_from_one(text):
    with pytest.raises(BadInput, match="I from 1 to N"):
        parse_shard(text)
    assert parse_shard("4/4") == (4, 4)


def test_sixteen_bits_are_kept_on_disk_and_given_out_as_eight(tmp_path, two_classes):
    import cv2

    rng = np.random.default_rng(0)
    for i in range(15):
        deep = rng.integers(0, 65_536, (40, 40)).astype(np.uint16)
        assert cv2.imwrite(str(two_classes / "NORMAL" / f"patient{i}_0.png"), deep)
    kept = prepare(two_classes, tmp_path / "deep", pixel_size=32, bits=16, show=False)
    assert kept.pixels.dtype == np.uint16
    file = two_classes / kept.table["image"][40]
    np.testing.assert_array_equal(kept.pixels[40], read_image(file, 32, bits=16))
    shallow = prepare(two_classes, tmp_path / "shallow", pixel_size=32, show=False)
    given = open_cohort(tmp_path / "deep", pixel_size=32)
    assert given.pixels[:].dtype == np.uint8
    assert np.abs(given.pixels[:].astype(int) - shallow.pixels).max() <= 1
    low = np.asarray(kept.pixels[kept.table["image"].str.contains("NORMAL").to_numpy()]) % 257
    assert (low > 0).mean() > 0.4  # finer than 8 bits could be
    assert given.mean_std()[0] == pytest.approx(shallow.mean_std()[0], abs=1e-3)
