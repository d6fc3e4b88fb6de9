import re

from cxr_recipes.figure import figure


def model(value: float, speed: bool = True) -> dict:
    entry = {"value": value, "low": value - 0.02, "high": value + 0.02}
    size = {"parameters": 11_200_000}
    return {"overall": {"auroc": entry}, "size": size, "speed": {"latency_ms_p50": 4.25} if speed else None}


def test_a_row_shows_both_models_with_size_and_latency() -> None:
    models = {"kd-seed0": model(0.95), "kd-seed1": model(0.96), "alone-seed0": model(0.90), "alone-seed1": model(0.91)}
    rows = [("ResNet-18", ["kd-seed0", "kd-seed1"], ["alone-seed0", "alone-seed1"])]
    svg = figure(rows, models, "auroc")
    words = re.findall(r">([^<>]+)</text>", svg)
    assert {"ResNet-18", "11.2 M parameters, 4.2 ms an image", "with", "without"} <= set(words)
    assert "AUROC, mean and 95 % interval" in words
    assert "+5.0 [+5.0, +5.0] points, 2 seeds" in words
    assert svg == figure(rows, models, "auroc")


def test_the_teacher_is_a_line_with_its_value() -> None:
    models = {"kd": model(0.95), "alone": model(0.90), "teacher": model(0.97)}
    words = re.findall(r">([^<>]+)</text>", figure([("s", ["kd"], ["alone"])], models, "auroc", "teacher", 624))
    assert {"teacher 0.970", "AUROC on 624 test images, mean and 95 % interval", "+5.0 points (one seed)"} <= set(words)


def test_a_single_seed_has_the_interval_of_its_patients_and_may_lack_times() -> None:
    models = {"kd": model(0.95, speed=False), "alone": model(0.90, speed=False)}
    words = re.findall(r">([^<>]+)</text>", figure([("student", ["kd"], ["alone"])], models, "auroc"))
    assert "11.2 M parameters" in words
