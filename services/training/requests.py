"""What requests may say: checked once, before anything is done."""

from dataclasses import dataclass

from metarec.errors import ConfigError, InvalidInputError
from metarec.training.recipes import get_recipe
from metarec.v1 import training_pb2

MAX_WORKERS = 1024
MAX_PAGE, DEFAULT_PAGE = 1000, 50


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A training job as asked for; `recipe` may be empty, which means the default one."""

    data: str
    recipe: str
    num_workers: int
    seed: int
    launcher: training_pb2.Launcher.ValueType


def checked(job: training_pb2.TrainingJob, *, default_data: str) -> JobRequest:
    """The job, with the service's dataset where none is named. InvalidInputError names the field that is wrong."""
    if not 0 <= job.num_workers <= MAX_WORKERS:
        raise InvalidInputError(f"must be 0 to {MAX_WORKERS}, not {job.num_workers}", field="training_job.num_workers")
    if job.seed < 0:
        raise InvalidInputError(f"must be 0 or more, not {job.seed}", field="training_job.seed")
    if job.recipe:
        try:
            get_recipe(job.recipe)
        except ConfigError as error:
            raise InvalidInputError(error.message, field="training_job.recipe") from error
    data = job.data or default_data
    if not data:
        raise InvalidInputError(
            "is empty and this service has no METAREC_DATA; name the dataset directory to train on", field="training_job.data"
        )
    return JobRequest(data=data, recipe=job.recipe, num_workers=job.num_workers, seed=job.seed, launcher=job.launcher)


def identifier(name: str, collection: str) -> str:
    """The id in the resource name `collection/id`. InvalidInputError when it is none."""
    prefix, _, rest = name.partition("/")
    if prefix != collection or not rest or "/" in rest or rest.startswith("."):
        raise InvalidInputError(f"'{name}' is no resource name of the form '{collection}/ID'", field="name")
    return rest


def page(size: int) -> int:
    """Entries per page. InvalidInputError when out of range."""
    if not 0 <= size <= MAX_PAGE:
        raise InvalidInputError(f"must be 1 to {MAX_PAGE}, not {size}", field="page_size")
    return size or DEFAULT_PAGE
