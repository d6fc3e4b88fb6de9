import shlex
from pathlib import Path

import cv2
import pytest

from cxr_data import load
from cxr_data.cli import main


def test_prepare_preview_and_show(two_classes, tmp_path, capsys):
    out = tmp_path / "cohort"
    assert main(["prepare", str(two_classes), "--size", "28", "--out", str(out), "--aspect", "crop"]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out}: 60 images of 32 x 32 pixels, for networks that take 28" in said
    assert f"uv run finetune --data {out} --run cohort" in said
    cohort = load(out)
    assert cohort.pixel_mapping["aspect"] == "crop"

    assert main(["show", str(out)]) == 0
    said = capsys.readouterr().out
    assert "asked for" not in said
    lines = [line.split("│")[1:-1] for line in said.splitlines() if "│" in line]
    counts = {cells[0].strip(): [int(cell) for cell in cells[1:]] for cells in lines}
    assert counts["images"] == [42, 6, 12, 60]
    assert counts["patients"][-1] == 30
    assert counts["COVID"][-1] == 30
    normal = [int(cohort.targets[cohort.rows(split), 0].sum()) for split in ("train", "val", "test")]
    assert counts["NORMAL"] == [*normal, 30]

    sheet = tmp_path / "sheet.png"
    assert main(["preview", str(out), "--out", str(sheet), "--columns", "3", "--tile", "64"]) == 0
    drawn = cv2.imread(str(sheet), cv2.IMREAD_GRAYSCALE)
    assert drawn is not None
    assert drawn.shape[1] == 3 * 68 + 4


def test_a_phantom_can_be_written_out(tmp_path):
    assert main(["prepare", "phantom:30", "--size", "28", "--out", str(tmp_path / "p")]) == 0
    assert len(load(tmp_path / "p")) == 30
    assert main(["prepare", "phantom:30", "--size", "28", "--out", str(tmp_path / "p")]) == 0
    assert main(["prepare", "phantom:40", "--size", "28", "--out", str(tmp_path / "p")]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["perpare"], "did you mean prepare?"),
        (["prepare", "/no/such/folder"], "expected a folder of images, found nothing there"),
        (["prepare", "a", "b"], "expected one data set, found a b"),
        (["prepare", "--sise", "64"], "did you mean size"),
        (["prepare", "phantom:30", "--seed", "-1"], "a seed of at least 0, found -1"),
        (["folds", "cohort", "--seed", "-1"], "a seed of at least 0, found -1"),
        (["prepare", "phantom:30", "--size", "100000"], "found 100000\n  where: --size"),
        (["show", "phantom:30", "--size", "-5"], "found -5\n  where: --size"),
        (["preview", "phantom:30", "--columns", "0"], "1 to 64 columns"),
    ],
)
def test_bad_input_ends_with_2_and_one_message(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_names_in_brackets_are_shown_as_they_are(tmp_path, write_images, capsys):
    folder = tmp_path / "[red]mine"
    write_images(folder, [f"{label}/{i}.png" for label in ("[red]", "[x]") for i in range(20)])
    assert main(["prepare", str(folder), "--size", "28", "--out", str(tmp_path / "c")]) == 0
    said = capsys.readouterr().out
    assert all(f" {name} " in said for name in ("[red]", "[x]"))
    assert main(["audit", str(tmp_path / "c"), "--out", str(tmp_path / "audit")]) == 0
    assert "audit of [red]mine" in capsys.readouterr().out


def test_help_names_the_commands(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("prepare", "preview", "show"))


def suggested(said: str) -> list[list[str]]:
    """The commands that an output suggests, as they would be pasted."""
    return [shlex.split(line.split("  ", 1)[1]) for line in said.splitlines() if ":  " in line and "uv run" in line]


@pytest.fixture
def run(typed):
    """Runs a suggested command line in a folder: (words, folder) -> what it says."""

    def run(words: list[str], folder: Path) -> str:
        assert words[:2] == ["uv", "run"]
        done = typed(*words[2:], cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_what_prepare_suggests_can_be_pasted(two_classes, tmp_path, run):
    said = run(["uv", "run", "cxr-data", "prepare", str(two_classes), "--size", "32", "--out", "my cohort"], tmp_path)
    look, check, following = suggested(said)
    assert "my cohort-sheet.png" in run(look, tmp_path)
    assert "my cohort-audit" in run(check, tmp_path)
    assert (tmp_path / "my cohort-audit" / "audit.html").exists()
    assert following == ["uv", "run", "finetune", "--data", "my cohort", "--run", "my-cohort"]
    assert "run: my-cohort" in run([*following, "--print_config"], tmp_path)
    (fold,) = suggested(run(["uv", "run", "cxr-data", "folds", "my cohort", "--folds", "3"], tmp_path))
    assert fold[3:] == ["--data", "my cohort@1/3", "--run", "my-cohort-1of3"]


@pytest.mark.nightly
def test_the_training_that_prepare_suggests_runs(two_classes, tmp_path, run):
    said = run(["uv", "run", "cxr-data", "prepare", str(two_classes), "--size", "32"], tmp_path)
    quick = ["--epochs", "1", "--architecture", "baseline_cnn"]
    (again,) = suggested(run([*suggested(said)[2], *quick], tmp_path))
    assert again[2] == "distill"


def test_images_without_labels_lead_to_pretraining(tmp_path, write_images, capsys):
    folder = write_images(tmp_path / "flat", [f"{i}.png" for i in range(30)])
    assert main(["prepare", str(folder), "--size", "32", "--out", str(tmp_path / "c")]) == 0
    following = suggested(capsys.readouterr().out)[-1]
    assert following == ["uv", "run", "ssl-pretrain", "--data", str(tmp_path / "c"), "--run", "c"]


def test_audits_lie_beside_their_cohort_and_never_over_another(two_classes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("phantom:20", "phantom-multiclass:20"):
        assert main(["audit", name, "--size", "28"]) == 0
    assert len(list(tmp_path.glob("phantom*-audit/audit.html"))) == 2
    assert main(["audit", "phantom:20", "--size", "28", "--out", "one"]) == 0
    assert main(["audit", "phantom:20", "--size", "28", "--out", "one"]) == 0
    assert main(["audit", "phantom-multiclass:20", "--size", "28", "--out", "one"]) == 2
    assert "found an audit of phantom\n" in capsys.readouterr().err


def test_the_cache_is_listed_and_cleaned(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    for name in ("phantom:20", "phantom-multiclass:20"):
        assert main(["show", name, "--size", "28"]) == 0
    capsys.readouterr()
    assert main(["cache"]) == 0
    said = capsys.readouterr().out
    assert "phantom-20-" in said
    assert "in all: 2 folders" in said
    assert "uv run cxr-data cache --clean" in said
    assert main(["cache", "phantom-20-*", "--clean"]) == 0
    assert main(["cache", "--unused_days", "1"]) == 0
    assert "in all: 0 folders" in capsys.readouterr().out
    assert [path.name.split("-")[1] for path in (tmp_path / "cache" / "cohorts").glob("phantom*")] == ["multiclass"]
    assert main(["show", "phantom:20", "--size", "28"]) == 0
    assert main(["cache", "--clean"]) == 0
    assert not list((tmp_path / "cache" / "cohorts").glob("*phantom*"))
