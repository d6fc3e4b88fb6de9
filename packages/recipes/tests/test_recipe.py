from pathlib import Path

import pytest

from cxr_common.errors import BadInput
from cxr_recipes.recipe import names, read

RUN = Path("runs/x")


def write(tmp_path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_every_recipe_of_the_package_can_be_read_and_filled() -> None:
    assert {"quickstart", "kermany", "label-efficiency"} <= set(names())
    for name in names():
        recipe = read(name)
        for scale in recipe.scales:
            stages = recipe.commands(scale, RUN)
            assert all(len(command) > 3 and "{" not in " ".join(command) for stage in stages for command in stage)


def test_placeholders_loops_and_pairs(tmp_path) -> None:
    recipe = read(
        write(
            tmp_path,
            """
title: t
data: somewhere
scales: {a: {size: 32, seeds: [0, 1]}, b: {size: 64, seeds: [5], data: "phantom:50"}}
stages:
  - ssl-pretrain --size {size}
  - command: finetune --seed {seed} --start {start} --name {name}{seed}
    for: {"start, name": [[random, r], ["{run}/ssl/b", s]], seed: seeds}
""",
        )
    )
    first, second = recipe.commands("a", RUN)
    assert first == [["ssl-pretrain", "--size", "32", "--data", "somewhere", "--run", "x"]]
    assert [" ".join(c[1:7]) for c in second] == [
        "--seed 0 --start random --name r0",
        "--seed 1 --start random --name r1",
        "--seed 0 --start runs/x/ssl/b --name s0",
        "--seed 1 --start runs/x/ssl/b --name s1",
    ]
    stages = recipe.commands("b", Path("/tmp/elsewhere/x"))
    typed = "ssl-pretrain --size 64 --data phantom:50 --run x --runs_dir /tmp/elsewhere"
    assert " ".join(stages[0][0]) == typed
    assert recipe.commands("b", RUN, "given")[0][0][-3] == "given"


def test_a_value_of_several_words_and_a_command_with_its_own_data(tmp_path) -> None:
    text = """
title: t
data: a folder
scales: {a: {size: 32}}
stages:
  - cxr-data prepare {data} --out {run}/other
  - command: finetune --data {cohort} {how}
    for: {cohort: ["{data}", "{run}/other"], how: ["--mode linear --size {size}"]}
"""
    prepared, fitted = read(write(tmp_path, text)).commands("a", RUN)
    assert prepared == [["cxr-data", "prepare", "a folder", "--out", "runs/x/other"]]
    wanted = ["--mode", "linear", "--size", "32", "--run", "x"]
    assert fitted == [["finetune", "--data", "a folder", *wanted], ["finetune", "--data", "runs/x/other", *wanted]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title: t", "scales and stages"),
        ("title: t\nscales: {a: {}}\nstages: []\nstagse: 1", "stagse"),
        ("title: t\nscales: {a: {}}\nstages: [rm -rf /]", "command of a recipe"),
        ("title: t\nscales: {a: {}}\nstages: [finetun --x 1]", "did you mean finetune"),
        ("[1, 2", "YAML"),
        ("- 1", "scales and stages"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, says) -> None:
    with pytest.raises(BadInput, match=says):
        read(write(tmp_path, text))


def test_names_that_are_none(tmp_path) -> None:
    with pytest.raises(BadInput, match="did you mean quickstart"):
        read("quickstar")
    with pytest.raises(BadInput, match="nothing there"):
        read("missing.yaml")
    with pytest.raises(BadInput, match="did you mean cpu"):
        read("quickstart").commands("cpuu", RUN)
    recipe = read(write(tmp_path, 'title: t\nscales: {a: {}}\nstages: ["evaluate --seed {seed}"]'))
    with pytest.raises(BadInput, match="seed"):
        recipe.commands("a", RUN)
