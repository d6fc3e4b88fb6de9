"""The parts of metrics.json as pydantic models; ``cxr_eval.document`` puts them together."""

from typing import Any, Literal

from cxr_common.typed_files import Typed


class Entry(Typed):
    """A value with its 95 % interval; null where it does not exist, with the reason."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None
    """Why there is no value."""
    interval_reason: str | None = None
    """Why there is no interval."""
    exact: int | None = None
    """Patients, where the interval is Clopper and Pearson's."""
    labels: int | None = None
    """How many labels an average is over, where some have no value."""
    delong_standard_error: float | None = None
    """DeLong's standard error of a label's AUROC."""


class Difference(Typed):
    """This model minus another, paired."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    """Two-sided, by Student's t."""
    p_holm: float | None
    """Adjusted for the number of tests by Holm's method."""
    reason: str | None = None
    interval_reason: str | None = None
    labels: int | None = None
    """How many labels both models define, where that is not all of them."""
    delong_p: float | None = None
    """Of a label's AUROC by DeLong's test."""
    delong_p_holm: float | None = None
    delong_reason: str | None = None
    """Why there is no DeLong test."""


class CurveBin(Typed):
    """A bin of a reliability curve; low and high are Wilson's interval of the observed share."""

    predicted: float
    observed: float
    count: int
    low: float
    high: float


class BrierParts(Typed):
    """brier = reliability − resolution + uncertainty + within; null without a known label."""

    reliability: float | None
    resolution: float | None
    uncertainty: float | None
    within: float | None


class WithFigures(Typed, extra="allow"):
    """An object in which figures stand beside the other fields, by name."""

    __pydantic_extra__: dict[str, Entry]  # pyright: ignore[reportIncompatibleVariableOverride]: as pydantic documents

    @property
    def figures(self) -> dict[str, Entry]:
        """Figures by name of the metric."""
        return self.__pydantic_extra__


class CalibrationShape(WithFigures):
    """The reliability curve; before the temperature also the calibration metrics, by name."""

    curve: list[CurveBin]
    brier_parts: BrierParts


class LabelCalibration(Typed):
    """Calibration of a label after and before the stored temperature; before is null without one."""

    after: CalibrationShape
    before: CalibrationShape | None


class LabelResult(WithFigures):
    """Counts of one label, and every metric by name."""

    positives: int
    negatives: int
    unknown: int
    positive_patients: int
    negative_patients: int
    tp: int
    fp: int
    fn: int
    tn: int
    calibration: LabelCalibration


class ModelCalibration(Typed):
    """The stored temperature, and the averages before it; null without one."""

    temperature: float | None
    before: dict[str, Entry] | None


class GroupResult(Typed):
    """Figures of one subgroup."""

    overall: dict[str, Entry]
    labels: dict[str, dict[str, Entry]]


class TrainingCohort(Typed):
    """The cohort a model was trained on, null where its file does not say."""

    name: str | None
    source: str | None
    fingerprint: str | None


class ModelFile(Typed):
    """What a weights file says of itself."""

    path: str
    sha256: str
    architecture: str
    input_size: int
    labels: list[str]
    fitted_thresholds: bool
    """False where 0.5 decides."""
    temperature: float | None
    parents: list[dict[str, Any]]
    cohort: TrainingCohort
    config: dict[str, Any]
    seed: int | None
    versions: dict[str, str]
    git: str | None
    licence: str | None = None
    ancestors: list[dict[str, Any]] | None = None
    """Every file it comes from, with licence and source."""


class Size(Typed):
    """Parameters, multiply-accumulates of one image, bytes of the file."""

    parameters: int
    macs: int
    bytes: int


class Speed(Typed):
    """Latency of one image, best throughput, peak memory, and how they were measured."""

    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    runs: int
    images_per_second: float
    batch: int
    runtime: str
    precision: str
    threads: int
    warm_up: int
    device: str
    peak_bytes: int


class TrainingImages(Typed):
    """Evaluated images among the training and validation images of the model, its teachers or its start."""

    evaluated: int
    identical: int | None
    """Null where none could be compared."""
    copies: int | None
    """Others that look the same: saved anew, rescaled, toned, inverted or turned. Null where none could be compared."""
    not_compared: str | None
    """What could not be compared, and why."""


class CorruptionResult(Typed):
    """AUROC on copies corrupted in one way, and its difference from that on the images as they are."""

    name: str
    strength: Literal["mild", "strong"]
    auroc: Entry
    difference: Entry


class ModelResult(Typed):
    """One model: its file, size and speed, and its figures."""

    file: ModelFile
    size: Size
    speed: Speed | None
    thresholds: dict[str, float] | None
    """Label -> decision threshold; null where the most probable class decides."""
    cohort: Literal["internal", "other state", "overlapping", "external", "unknown"]
    """How the evaluated cohort relates to the one trained on."""
    training_images: TrainingImages
    overall: dict[str, Entry]
    macro: dict[str, Entry]
    micro: dict[str, Entry]
    weighted: dict[str, Entry]
    labels: dict[str, LabelResult]
    calibration: ModelCalibration
    confusion_matrix: list[list[int]] | None
    """Images by true (rows) and decided class, of exclusive classes."""
    subgroups: dict[str, dict[str, GroupResult]]
    """Column -> group -> figures."""
    corruptions: list[CorruptionResult] | None = None
    """With --corruptions alone."""


class ModelDifference(Typed):
    """Differences of a model to the first one."""

    reference: str
    overall: dict[str, Difference]
    labels: dict[str, dict[str, Difference]]


class Gain(Typed):
    """Overall differences of a student to the same student trained without the teacher."""

    control: str
    overall: dict[str, Difference]


class Noninferiority(Typed):
    """Whether a model's AUROC is not worse than another's by a margin or more."""

    against: str
    metric: str
    margin: float
    value: float | None
    low: float | None
    p: float | None
    """One-sided."""
    p_holm: float | None
    noninferior: bool | None
    reason: str | None = None
    labels: int | None = None


class Group(Typed):
    """Size of a subgroup, and why it is not evaluated (null where it is)."""

    name: str
    images: int
    patients: int
    reason: str | None


class Column(Typed):
    """A column of the cohort as subgroups."""

    groups: list[Group]
    unknown: int
    """Images without a value."""
    labels: list[str]
    """Those the averages are over."""


class Gap(Typed):
    """The largest difference between two groups of a column; label is null for the average."""

    model: str
    column: str
    label: str | None
    metric: str
    best: str
    worst: str
    value: float | None
    low: float | None
    high: float | None


class Subgroups(Typed):
    """Columns reported by, and the gaps between groups, the largest first."""

    columns: dict[str, Column]
    gaps: list[Gap]


class Intervals(Typed):
    """How the intervals were made."""

    level: float
    resamples: int
    unit: str
    least_patients: int
    methods: dict[str, str]
    """Metric -> "jackknife", "bootstrap" or "none"."""
    seed: int


class Split(Typed):
    """Images and patients of a split, positives and unknowns of each label."""

    images: int
    patients: int
    positive: dict[str, int]
    unknown: dict[str, int]


class EvaluatedCohort(Typed):
    """The cohort evaluated on."""

    name: str
    source: str
    fingerprint: str
    task: str | None
    labels: list[str]
    pixel_size: int
    pixel_mapping: dict[str, Any]
    splits: dict[str, Split]
    shared_patients: dict[str, int]
    """"train and test" -> patients in both."""
    notes: list[str]
    broken: int
    """Files set aside."""
    parts: list[dict[str, Any]] | None = None
    """Cohorts it was joined from."""


class Score(Typed):
    """A score of a model's explanations; label is null for all labels."""

    model: str
    name: str
    label: str | None
    images: int
    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None
    interval_reason: str | None = None


class Explanations(Typed):
    """Scores of explanations; curves are model -> deletion and insertion -> mean probabilities."""

    method: str
    levels: dict[str, str]
    scores: list[Score]
    curves: dict[str, dict[str, list[float]]]


class Provenance(Typed):
    """What made the report."""

    versions: dict[str, str]
    git: str | None
    created: str
    command: str
    config: dict[str, Any]
    device: str
    precision: str
