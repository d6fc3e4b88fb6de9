from pathlib import Path

import pytest

from cxr_data.errors import BadInput
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
        ("title: t", "the field 'scales', found none"),
        ("title: t\nscales: {a: {}}\nstages: []\nstagse: 1", "stagse"),
        ("title: t\nscales: {a: {}}\nstages: [rm -rf /]", "command of a recipe"),
        ("title: t\nscales: {a: {}}\nstages: [finetun --x 1]", "did you mean finetune"),
        ("[1, 2", "YAML"),
        ("- 1", "scales and stages"),
        ("title: 2024-13-45\nscales: {a: {}}\nstages: [evaluate]", "YAML"),
        ("title: t\nscales: {}\nstages: [evaluate]", "1 entries or more.*scales"),
        ("title: t\nscales: [a]\nstages: [evaluate]", "mapping.*'a'.*mine.yaml, scales"),
        ("title: t\nscales: {a: }\nstages: [evaluate]", "mapping.*None.*mine.yaml, scales, a"),
        ("title: t\nscales: {1: {}}\nstages: [evaluate]", "text.*found 1.*quotes"),
        ("title: t\nscales: {a: {data: [1]}}\nstages: [evaluate]", "text as data of the scale a.*1"),
        ("title: t\nscales: {a: {}}\nabout: 3\nstages: [evaluate]", "text.*mine.yaml, about"),
        ("title: t\nscales: {a: {}}\nstages: ", "a list.*None.*stages"),
        ("title: t\nscales: {a: {}}\nstages: [evaluate, 3]", "a command.*found 3.*mine.yaml, stages.1."),
        ('title: t\nscales: {a: {}}\nstages: [" "]', "a command.*mine.yaml, stages.0."),
        ("title: t\nscales: {a: {}}\nstages: [{for: {seed: [1]}}]", "a command.*mine.yaml, stages.0."),
        ("title: t\nscales: {a: {}}\nstages: [{command: evaluate, fro: {}}]", "'fro'.*stages.0.*did you mean for"),
        ("title: t\nscales: {a: {}}\nstages: [{command: evaluate, for: [a]}]", "mapping.*'a'.*stages.0., for"),
        ("title: t\nscales: {a: {}}\nstages: [evaluate]\nreports: [a]", "mapping.*mine.yaml, reports"),
        ("title: t\nscales: {a: {}}\nstages: [evaluate]\ngains: [a]", "mapping.*mine.yaml, gains"),
        ("title: t\nscales: {a: {}}\nstages: [evaluate]\ngains: {x: [a]}", "2 entries or more.*mine.yaml, gains, x"),
        ("title: t\nscales: {a: {}}\nstages: [evaluate]\npublished: {report: {m: {aurok: 1}}}", "did you mean auroc"),
        ("title: t\nscales: {a: {}}\nstages: [evaluate]\npublished: {report: {m: {f1: x}}}", "a number.*'x'"),
        ("title: t\nscales: {a: {}}\nstages: [evaluate]\npublished: {repotr: {}}", "did you mean report"),
        ("title: t\nscales: {a: {}}\nstages: [evaluate]\npublished_gains: {x: {}}", "gain of the recipe"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, says) -> None:
    with pytest.raises(BadInput, match=f"(?s){says}"):
        read(write(tmp_path, text))


def test_a_file_that_is_not_utf8(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("title: Röntgen".encode("latin-1"))
    with pytest.raises(BadInput, match=r"(?s)UTF-8.*mine\.yaml"):
        read(str(path))


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("{command: evaluate, for: {seed: 3}}", "list of values for seed.*found 3.*mine.yaml, stage 1, scale a"),
        ("{command: evaluate, for: {seed: seeds}}", "list of values for seed.*'seeds'"),
        ("{command: evaluate, for: {seed: ep}}", "list of values for seed.*found 5"),
        ("{command: evaluate, for: {seed: []}}", "list of values for seed"),
        ('{command: evaluate, for: {"x, y": [[1, 2], [3]]}}', r"2 values \(x, y\).*\[3\]"),
        ('{command: evaluate, for: {"x, y": [12]}}', r"2 values \(x, y\).*12"),
        ('"evaluate {}"', "a value for {}, found none.*mine.yaml, stage 1, scale a.*known here: ep"),
        ('"evaluate {ep"', "placeholders.*close every brace"),
        ('"evaluate ep}"', "placeholders.*close every brace"),
        ('"evaluate {{ep}}"', "placeholders.*close every brace"),
        ('"evaluate {ep.nope}"', "a value for {ep.nope}, found none"),
        ('"evaluate {ep.__class__.__mro__}"', "found none"),
        ('"evaluate {ep!r}"', "found none"),
        ('"evaluate {own}"', "that does not need itself"),
        ('"evaluate {this}"', "that does not need itself"),
        ('"evaluate {many}"', r"one value for {many}, found \[1, 2\]"),
        ('"evaluate {nothing}"', "one value for {nothing}, found None"),
    ],
)
def test_loops_and_placeholders_that_cannot_be_filled(tmp_path, stage, says) -> None:
    scale = '{ep: 5, own: "{own}x", this: "{that}", that: "{this}", many: [1, 2], nothing: }'
    recipe = read(write(tmp_path, f"title: t\nscales: {{a: {scale}}}\nstages: [{stage}]"))
    with pytest.raises(BadInput, match=f"(?s){says}"):
        recipe.commands("a", RUN)


@pytest.mark.parametrize(
    ("stages", "reports", "says"),
    [
        ("[evaluate --name other]", None, "found 'report'.*reports, scale a.*name one of: other"),
        ("[evaluate]", "{reprot: it}", "found 'reprot'.*name one of: report"),
        ("[finetune]", "{report: it}", "add the stage evaluate --name report"),
        ("[evaluate --name x, evaluate --name=y, evaluate]", "{x: it, y: it, report: it}", None),
        ("[finetune]", None, None),
    ],
)
def test_a_report_must_be_written_by_a_stage(tmp_path, stages, reports, says) -> None:
    text = f"title: t\nscales: {{a: {{}}}}\nstages: {stages}" + (f"\nreports: {reports}" if reports else "")
    recipe = read(write(tmp_path, text))
    if says is None:
        recipe.commands("a", RUN)
    else:
        with pytest.raises(BadInput, match=f"(?s){says}"):
            recipe.commands("a", RUN)


def test_a_command_may_name_its_data_with_an_equals_sign(tmp_path) -> None:
    recipe = read(write(tmp_path, 'title: t\nscales: {a: {}}\nstages: ["finetune --data=phantom:9"]'))
    assert recipe.commands("a", RUN) == [[["finetune", "--data=phantom:9", "--run", "x"]]]


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


def test_a_scale_may_leave_a_loop_out(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(
        "title: t\nreports: {}\nscales: {small: {seeds: []}, large: {seeds: [0, 1]}}\n"
        "stages: [{command: 'finetune --seed {seed}', for: {seed: seeds}}, finetune --seed 9]\n"
    )
    recipe = read(str(file))
    assert [len(stage) for stage in recipe.commands("small", Path("runs/r"))] == [0, 1]
    assert [len(stage) for stage in recipe.commands("large", Path("runs/r"))] == [2, 1]
