"""The page ``gpu.md`` of what gpu-check found; every number on it comes from ``gpu.json``."""

from typing import Any

from cxr_data.markdown import table


def page(record: dict[str, Any]) -> str:
    """The page, in Markdown."""
    lines = [
        "# A GPU for some minutes",
        "",
        f"Written by `reproduce gpu-check`, scale {record['scale']}, on {record['device']}; {record['machine']}.",
        f"Pixels: {record['pixels'] or 'synthetic radiographs'}.",
        "",
        "## Correctness",
        "",
        "Each stage for two steps on the CPU and on the device, from the same weights, in float32 without TF32.",
        "*Update*: ‖w_device − w_CPU‖ / ‖w_CPU − w_start‖.",
        "",
        "| check | differences | tolerance | |",
        "|---|---|---|---|",
    ]
    for name, result in record["correctness"].items():
        differences, tolerances = (_numbers(result.get(key, {})) for key in ("differences", "tolerances"))
        lines.append(f"| {name} | {differences} | {tolerances} | {verdict(result)} |")
    lines += ["", *_speed(record["speed"]), "", *_recipe(record["recipe"])]
    return "\n".join(lines) + "\n"


def failures(record: dict[str, Any]) -> list[str]:
    """Names of what did not pass; what was left out for lack of time is no failure."""
    parts = {**record["correctness"], **record["speed"]}
    failed = [name for name, result in parts.items() if "error" in result or result.get("passed") is False]
    return [*failed, "recipe"] if record["recipe"].get("error") else failed


def verdict(result: dict[str, Any]) -> str:
    """One word or sentence on a result."""
    if "left_out" in result:
        return f"left out: {result['left_out']}"
    if "error" in result:
        return f"FAILED: {result['error'][:300]}".replace("|", "/").replace("\n", " ")
    return "passed" if result["passed"] else "FAILED"


def sentence(result: dict[str, Any]) -> str:
    """A result on one line of the terminal."""
    if "passed" in result or "error" in result or "left_out" in result:
        return f"{verdict(result)}  {_numbers(result.get('differences', {}))}".strip()
    return _numbers({key: value for key, value in result.items() if isinstance(value, int | float)})


def _speed(speed: dict[str, Any]) -> list[str]:
    peak = speed.get("product of matrices", {}).get("tflops")
    measured = f"{peak:.3g} TFLOP/s" if peak else "not measured"
    lines = [
        "## Speed",
        "",
        "Of the training steps after the first ten, without validation. *Of peak*: operations of the convolutions and",
        f"products over those of a product of two large matrices on this device, {measured}.",
        "*Waiting*: share of the time in which no batch was ready.",
        "",
    ]
    rows = []
    for name, result in speed.items():
        if name == "product of matrices":
            continue
        if "error" in result or "left_out" in result:
            rows.append([name, verdict(result), "", "", "", ""])
            continue
        rate = result["training_images_per_second"]
        share = rate * result["gflops"] / 1e3 / peak if rate and peak else None
        memory = result.get("peak_gpu_memory_gib") or result.get("peak_memory_gib")
        rows.append(
            [
                name,
                f"{rate:.0f}" if rate else "too few steps",
                f"{100 * share:.1f} %" if share else "",
                f"{100 * result['waiting_share']:.1f} %" if result["waiting_share"] is not None else "",
                f"{memory:.2f} GiB" if memory else "",
                result.get("precision") or "",
            ]
        )
    return [*lines, *table(["training", "images/s", "of peak", "waiting", "memory", "precision"], rows)]


def _recipe(recipe: dict[str, Any]) -> list[str]:
    if not recipe:
        return []
    rows = []
    for name, result in recipe["trained"].items():
        auroc = result.get("val_auroc", result.get("probe_auroc"))
        rate, waiting = result.get("training_images_per_second"), result.get("waiting_share")
        rows.append(
            [
                name,
                f"{auroc:.4f}" if auroc is not None else "",
                f"{result.get('seconds', 0):.0f}",
                f"{rate:.0f}" if rate else "",
                f"{100 * waiting:.1f} %" if waiting is not None else "",
                result.get("precision", ""),
                result.get("device", ""),
            ]
        )
    training = "validation AUROC (linear probe for SSL)"
    heads = ["training", training, "seconds", "images/s", "waiting", "precision", "device"]
    about = f"`{recipe['recipe']}`: {recipe['ended']}; {len(recipe['done'])} commands done."
    return ["## Recipe", "", about, "", *table(heads, rows)]


def _numbers(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
