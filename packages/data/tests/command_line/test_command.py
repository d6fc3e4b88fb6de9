import errno
import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest

from cxr_data.command_line.command import config_dict, parse, run_command, until_reader_leaves
from cxr_data.errors import BadInput


@dataclass(frozen=True)
class Finer:
    """What is seldom changed.

    Attributes:
        ema: Decay.
        nesterov: Whether to look ahead.
    """

    ema: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.ema >= 1:
            raise BadInput("a decay below 1", str(self.ema), where="--finer.ema")


@dataclass(frozen=True)
class Config:
    """A config.

    Attributes:
        size: Edge in pixels.
        lr: Learning rate.
        loss: Weights.
        restart: Start anew.
        models: Files.
        teachers: More files.
        seeds: Numbers.
        finer: What is seldom changed.
    """

    size: int = 64
    lr: float | None = None
    loss: dict[str, float] = field(default_factory=dict)
    restart: bool = False
    models: list[str] = field(default_factory=list)
    teachers: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    finer: Finer = field(default_factory=Finer)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadInput("a size above 0", str(self.size), where="--size", do="--size 64")


def given(*argv: str) -> Config:
    return parse(Config, prog="x", argv=argv, positional="models")


def test_defaults_flags_and_positionals() -> None:
    assert given() == Config()
    assert given("a", "b", "--size", "96", "--lr=.1") == Config(size=96, lr=0.1, models=["a", "b"])
    for typed in (["--models", "a", "b"], ["--models=a", "--models+", "b"], ["--models+=a", "--models", "b"]):
        assert given(*typed, "--size", "96", "--lr=.1") == Config(size=96, lr=0.1, models=["a", "b"])


def test_what_people_type_is_understood() -> None:
    assert given("--restart").restart
    assert given("--restart", "--size", "8") == Config(size=8, restart=True)
    assert not given("--restart", "false").restart
    assert given("--loss", "kd=0.9", "--loss=at=1000").loss == {"kd": 0.9, "at": 1000.0}
    assert given("--loss", "kd=1e-3", "--loss", "kd.t=2").loss == {"kd": 0.001, "kd.t": 2.0}


def test_lists_and_dataclasses_within() -> None:
    assert given("--teachers", "a", "b c", "--size", "8") == Config(size=8, teachers=["a", "b c"])
    assert given("--teachers=a.safetensors").teachers == ["a.safetensors"]
    assert given("--teachers", '["a", "b"]').teachers == ["a", "b"]
    for typed in (["0,1,2"], ["0", "1", "2"], ["[0, 1, 2]"]):
        assert given("--seeds", *typed).seeds == [0, 1, 2]
    with pytest.raises(BadInput):
        given("--seeds", "0,one")
    assert given("--finer.ema", "0.5", "--finer.nesterov") == Config(finer=Finer(0.5, True))
    with pytest.raises(BadInput, match="below 1"):
        given("--finer.ema", "1")
    with pytest.raises(BadInput, match=r"did you mean finer\.ema"):
        given("--finer.emma", "1")


def test_file_then_flags(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("size: 32\nlr: 0.5\nloss: {kd: 1}\nfiner: {ema: 0.25}\n")
    config = given("--config", str(tmp_path / "c.yaml"), "--size", "48", "--finer.nesterov")
    assert config == Config(size=48, lr=0.5, loss={"kd": 1.0}, finer=Finer(0.25, True))
    assert config_dict(config) == {
        "size": 48,
        "lr": 0.5,
        "loss": {"kd": 1.0},
        "restart": False,
        "models": [],
        "teachers": [],
        "seeds": [],
        "finer": {"ema": 0.25, "nesterov": True},
    }


@dataclass(frozen=True)
class Inner:
    """Within.

    Attributes:
        depth: Of it.
    """

    depth: int = 1


@dataclass(frozen=True)
class Preset:
    """A config with presets.

    Attributes:
        preset: Name of one.
        size: Edge.
        inner: Within.
    """

    preset: str = ""
    size: int = 64
    inner: Inner = Inner()


def test_a_preset_changes_defaults_alone(tmp_path, capsys) -> None:
    presets = {"large": {"size": 224, "inner.depth": 5}}

    def chosen(*argv: str) -> Preset:
        return parse(Preset, prog="x", argv=argv, presets=presets)

    assert chosen() == Preset()
    assert chosen("--preset", "large") == Preset("large", 224, Inner(5))
    assert chosen("--size", "32", "--preset=large", "--inner.depth", "2") == Preset("large", 32, Inner(2))
    file = tmp_path / "c.yaml"
    file.write_text("preset: large\nsize: 48\n")
    assert chosen("--config", str(file)) == Preset("large", 48, Inner(5))
    assert chosen("--config", str(file), "--preset", "") == Preset("", 48)
    assert chosen("--preset", "unknown") == Preset("unknown")  # the config's own checks refuse it
    with pytest.raises(SystemExit):
        chosen("--preset", "large", "--print_config")
    assert "size: 224" in capsys.readouterr().out
    file.write_text("[")
    with pytest.raises(BadInput):
        chosen("--config", str(file))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--sice", "3"], "did you mean size"),
        (["--size", "big"], "size"),
        (["--size", "0"], "a size above 0"),
        (["--config", "/no/such.yaml"], "no/such.yaml"),
    ],
)
def test_bad_input_is_one_message_and_code_2(argv, says, capsys) -> None:
    assert run_command(print, Config, prog="x", argv=argv, positional="models") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert says in err


def test_main_may_refuse_too(capsys) -> None:
    def main(_: Config) -> None:
        raise BadInput("a folder", "nothing", where="/data", do="give another")

    assert run_command(main, Config, prog="x", argv=[]) == 2
    assert capsys.readouterr().err == (
        "error: expected a folder, found nothing\n  where: /data\n  do:    give another\n"
    )


def test_a_config_file_that_is_no_text(tmp_path, capsys) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    argv = ["--config", str(tmp_path / "c.yaml")]
    assert run_command(print, Config, prog="x", argv=argv, positional="models") == 2
    assert "decode" in capsys.readouterr().err


def test_a_loop_that_was_told_to_stop_says_how_to_go_on(capsys) -> None:
    def main(_: Config) -> None:
        raise SystemExit(143)

    with pytest.raises(SystemExit, match="143"):
        run_command(main, Config, prog="x", argv=[])
    assert capsys.readouterr().err.startswith(
        "terminated; start the same command again: it resumes from what was saved"
    )


def test_a_function_is_imported_by_name_when_it_is_called() -> None:
    assert run_command("cxr_data.errors:nothing", Config, prog="x", argv=["--no_option"]) == 2
    with pytest.raises(AttributeError, match="nothing"):
        run_command("cxr_data.errors:nothing", Config, prog="x", argv=[])
    assert run_command("cxr_data.command_line.command:config_dict", Config, prog="x", argv=[]) == 0


def test_the_caller_gets_its_own_signal_handler_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_command(lambda config: None, Config, prog="try", argv=[])
    assert signal.getsignal(signal.SIGTERM) == before


def test_print_config_can_be_read_back(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        given("--size", "7", "--loss", "kd=2", "--print_config")
    assert ended.value.code == 0
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert given("--config", str(tmp_path / "c.yaml")) == Config(size=7, loss={"kd": 2.0})
    merged = given("--config", str(tmp_path / "c.yaml"), "--loss", "kd.t=3", "--loss", "my.module:Mine=1")
    assert merged.loss == {"kd": 2.0, "kd.t": 3.0, "my.module:Mine": 1.0}


@dataclass(frozen=True)
class _Lists:
    """Lists.

    Attributes:
        data: One or several.
        seeds: Numbers.
        names: Words.
    """

    data: list[str] | str = "phantom"
    seeds: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("--data a --data+ b", {"data": ["a", "b"]}),
        ("--data+ a", {"data": "a"}),
        ("--data+ a --seeds 1 --data+ b c", {"data": ["a", "b", "c"], "seeds": [1]}),
        ("--seeds 0 --names x --seeds+ 1,2 --names+=y", {"seeds": [0, 1, 2], "names": ["x", "y"]}),
        ("--names a --names b", {"names": ["b"]}),
    ],
)
def test_lists_grow_by_the_options_that_help_lists(typed, expected):
    config = parse(_Lists, prog="x", argv=typed.split())
    assert config == _Lists(**expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 0.1\n", "'learning_rate'\n  where: {file}\n  do:    did you mean lr?"),
        ("epohcs: 3\n", "'epohcs'\n  where: {file}\n  do:    did you mean epochs?"),
        ("optim:\n  clp: 1\n", "'optim.clp'\n  where: {file}\n  do:    did you mean optim.clip?"),
        ("optim.clp: 1\n", "'optim.clp'\n  where: {file}\n  do:    did you mean optim.clip?"),
    ],
)
def test_a_misspelt_name_in_a_yaml_file_gets_the_right_one(tmp_path, text, message):
    @dataclass(frozen=True)
    class Inner:
        clip: float = 0.0

    @dataclass(frozen=True)
    class Config:
        lr: float = 0.1
        epochs: int = 1
        optim: Inner = field(default_factory=Inner)

    file = tmp_path / "run.yaml"
    file.write_text(text)
    for arguments in (["--config", str(file)], [f"--config={file}"]):
        with pytest.raises(BadInput) as error:
            parse(Config, prog="x", argv=arguments)
        assert message.format(file=file) in str(error.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("learning_rate", "lr"), ("learning-rate", "lr"), ("batch", "batch_size"), ("model", "architecture")],
)
def test_common_names_of_an_option_lead_to_ours(typed, meant):
    @dataclass(frozen=True)
    class Config:
        lr: float = 0.1
        batch_size: int = 1
        architecture: str = ""

    with pytest.raises(BadInput, match=f"did you mean {meant}"):
        parse(Config, prog="x", argv=[f"--{typed}", "1"])


def test_an_option_within_another_is_found_by_its_last_name():
    @dataclass(frozen=True)
    class Inner:
        clip_norm: float = 0.0

    @dataclass(frozen=True)
    class Config:
        optim: Inner = Inner()
        other: Inner = Inner()

    with pytest.raises(BadInput, match=r"did you mean optim\.clip_norm or other\.clip_norm"):
        parse(Config, prog="x", argv=["--clip-norm", "1"])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--size", "a"], "expected a whole number, found a\n  where: --size"),
        (["--lr", "0,1"], "expected a number or null, found 0,1\n  where: --lr"),
        (["--finer.nesterov=maybe"], "expected true or false, found maybe\n  where: --finer.nesterov"),
        (["--aspect", "sqash"], "expected squash or crop, found sqash\n  where: --aspect"),
        (["lost"], "expected arguments the command knows, found unrecognized arguments: lost"),
    ],
)
def test_a_value_of_another_type_is_refused_in_plain_words(typed, said):
    @dataclass(frozen=True)
    class Cropped(Config):
        aspect: Literal["squash", "crop"] = "squash"

    with pytest.raises(BadInput) as refused:
        parse(Cropped, prog="x", argv=typed)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        ("cxr_data.command_line.umbrella", "--help"),
        ("cxr_data.command_line.umbrella", "data", "--help"),
        ("cxr_data.cli", "prepare", "--help"),
        ("cxr_data.cli", "prepare", "--print_config"),
    ],
)
def test_a_command_ends_quietly_when_its_reader_has_left(arguments, buffered):
    module, *rest = arguments
    code = f"import sys; from {module} import main; sys.exit(main({rest}))"
    started = subprocess.Popen(
        [sys.executable, *([] if buffered else ["-u"]), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert started.stdout
    assert started.stderr
    started.stdout.close()
    assert started.stderr.read() == b""
    assert started.wait(timeout=60) == 141
    started.stderr.close()


@pytest.mark.parametrize("number", ["ENOSPC", "ENAMETOOLONG", "EACCES", "ELOOP", "EIO"])
def test_what_a_disk_refuses_is_one_message(number, capsys) -> None:
    code = getattr(errno, number)

    def main(config: Config) -> None:
        raise OSError(code, os.strerror(code), "some/place")

    assert run_command(main, Config, prog="x", argv=[]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: expected a place to read and write, found " + os.strerror(code))
    assert "some/place" in said


def test_a_missing_file_that_nothing_explained_is_a_fault_of_ours() -> None:
    def main(config: Config) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "some/place")

    with pytest.raises(FileNotFoundError):
        run_command(main, Config, prog="x", argv=[])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_output_cannot_show_ends_no_command(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert until_reader_leaves(lambda: print("Befund \U0001f600 \udcff") or 0) == 0
    assert written.getvalue().startswith(b"Befund ")
