"""Maps of a network that has learnt something, on images whose lesions are known to the pixel."""

import numpy as np
import pytest
import torch

from cxr_common.checkpoint import Header, Input
from cxr_common.inference import outputs
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.accelerator import has_bf16
from cxr_data import open_cohort, pixel_size_for
from cxr_data.augment import ViewSpec, draw, render
from cxr_data.models.metrics import auroc
from cxr_eval.explain import explanations
from cxr_eval.models import Match
from cxr_eval.predictions import answers

SIZE, EPOCHS, BATCH, RATE = 96, 10, 16, 2e-3


@pytest.fixture(scope="module")
def cohort():
    return open_cohort("phantom:3000", pixel_size=pixel_size_for(SIZE), show=False)


@pytest.fixture(scope="module")
def trained(cohort):
    """A small network after two minutes on one core."""
    torch.manual_seed(0)
    network = GrayNetwork(build("test_resnet", len(cohort.labels)), *cohort.mean_std())
    network.to(memory_format=torch.channels_last)
    rows = cohort.rows("train")
    steps = len(rows) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.05, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps)
    spec = ViewSpec(SIZE, (0.9, 1.0), rotation=4.0, brightness=0.05, contrast=(-0.1, 0.1), gamma=0.1)
    for epoch in range(EPOCHS):
        network.train()
        views = draw(spec, len(cohort), seed=0, epoch=epoch)
        order = np.random.default_rng(epoch).permutation(rows)
        for step in range(steps):
            batch = np.sort(order[step * BATCH : (step + 1) * BATCH])
            images = render(cohort.pixels[batch], {name: part[batch] for name, part in views.items()}, spec)
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(False)):
                logits = network(torch.from_numpy(images).reshape(-1, 1, SIZE, SIZE))
            targets = torch.from_numpy(cohort.targets[batch])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return network.eval()


@pytest.fixture(scope="module")
def explained(cohort, trained):
    labels = cohort.labels
    header = Header("model", "test_resnet", Input(SIZE, *cohort.mean_std()), task="multilabel", labels=labels)
    rows = cohort.rows("test")
    logits = outputs(trained, cohort.pixels, rows, SIZE)
    given = {"net": answers(logits, header, labels, "net")}
    areas = auroc(cohort.targets[rows], logits)
    assert areas.min() > 0.8, areas  # a network that knows nothing has nothing to explain

    def explain(method):
        actual = explanations.explain(
            method,
            {"net": (trained, SIZE)},
            {"net": header},
            {cohort.pixel_size: cohort},
            given,
            Match("multilabel", labels, ()),
            cohort.targets[rows],
            rows,
            resamples=300,
        )
        return actual, {score["name"]: score for score in actual["scores"] if score["label"] is None}

    return explain


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_a_trained_network_points_at_lesions(explained, method):
    """Far better than the middle of the image and a random point, and for the reasons a map should have."""
    actual, score = explained(method)
    print({name: [entry["value"], entry["low"], entry["high"]] for name, entry in score.items()})
    assert score["Pointing game"]["images"] > 300
    assert score["Pointing game above the image centre"]["low"] > 0.25
    assert score["Pointing game above a random point"]["low"] > 0.35
    assert score["Energy in the lesion"]["low"] > 1.3 * score["Energy of an even map"]["value"]
    assert score["Empty maps"]["value"] < 0.05
    # What the map names first is what the network used. Deletion is not asked for: its images are so unlike
    # radiographs that it does not reliably tell these maps from random ones.
    assert score["Insertion area"]["value"] > score["Insertion area of a random map"]["value"] + 0.05
    # And the map depends on what was learnt.
    assert score["Similarity after random weights, head to level1"]["high"] < 0.5
    pages = {page["label"]: page["cases"] for page in actual["labels"]}
    assert all(any(case["kind"] == "right" for case in cases) for cases in pages.values())
