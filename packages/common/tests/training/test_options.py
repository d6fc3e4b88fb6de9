from dataclasses import dataclass, fields

from cxr_common.training.options import Conduct, without_conduct


@dataclass(frozen=True)
class Config(Conduct):
    lr: float = 0.1


def test_conduct_is_no_part_of_what_weights_say_of_their_making():
    assert without_conduct(Config(run="a", workers=3, restart=True, deterministic=True)) == {"lr": 0.1}
    assert {field.name for field in fields(Conduct)} >= {"run", "runs_dir", "workers", "restart", "extend"}
