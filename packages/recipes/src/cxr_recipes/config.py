"""Options of the command ``reproduce``; imports nothing heavy."""

from dataclasses import dataclass, field

from cxr_data.errors import BadInput


@dataclass(frozen=True)
class ReproduceConfig:
    """Run a whole experiment, stage by stage, as typed by hand; resumes where it stopped.

    Attributes:
        recipes: Names of recipes, or YAML files.
        data: Cohort instead of the recipe's own: "phantom", a folder, or a prepared cohort.
        scale: Size of the experiment, one of the recipe's. Default: the recipe's first.
        run: Name of the experiment. Default: the recipe's name.
        runs_dir: Folder of all experiments.
        jobs: Commands of one stage that run side by side, each with its share of the cores; faster on a CPU,
            where several networks with one thread each process more images than one network with all threads.
        note: Remark on this run for the results page, such as other load on the machine.
        dry_run: Print the commands and exit.
    """

    recipes: list[str] = field(default_factory=list)
    data: str = ""
    scale: str | None = None
    run: str | None = None
    runs_dir: str = "runs"
    jobs: int = 1
    note: str = ""
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.run and len(self.recipes) > 1:
            raise BadInput("one recipe where the run is named", f"{len(self.recipes)} recipes", where="--run")
        if self.jobs < 1:
            raise BadInput("at least 1 job", str(self.jobs), where="--jobs")
