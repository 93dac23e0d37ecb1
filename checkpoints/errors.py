"""What can go wrong while a model directory is looked up, made, quantized, fine-tuned or downloaded.

CheckpointError                 (exit 4: the work failed)
├── UnknownModel                (exit 2: no such name, directory or repository)
├── BadCheckpoint               (exit 2: a directory that cannot be loaded as it is)
├── BadScheme                   (exit 2: a quantization that is refused or does not fit the tensors)
├── BadRecipe                   (exit 2: a setting of a fine-tuning that cannot be)
├── BadText                     (exit 2: a text that cannot be trained on)
├── BadAdapter                  (exit 2: a directory that is no LoRA adapter, or not a whole one)
├── WrongBase                   (exit 2: an adapter that was trained for another model)
├── OutputExists                (exit 2: the output directory is not empty)
├── MissingPackage              (exit 3: torch or transformers is not installed)
├── DiskFull                    (exit 3: no room for the files)
├── CacheNotWritable            (exit 3: nothing can be written where things are kept between runs)
├── TrainingFailed              (exit 4: a training ended without a model or an adapter)
└── FetchFailed                 (exit 4: a download did not complete)
    ├── AccessDenied            (exit 4: the hub answered 401 or 403)
    ├── RepositoryNotFound      (exit 2: the hub knows no such repository, revision or file)
    └── HubUnreachable          (exit 4: no network, or the connection was cut)
"""


class CheckpointError(Exception):
    """The root of this package's errors; `str()` is one paragraph that a user can act on."""

    exit_code: int = 4


class UnknownModel(CheckpointError):
    """A model name that is neither known, nor a directory, nor shaped like a hub repository."""

    exit_code = 2


class BadCheckpoint(CheckpointError):
    """A model directory whose configuration or weights cannot be used."""

    exit_code = 2


class BadScheme(CheckpointError):
    """A quantization scheme that is refused, or does not fit the checkpoint's tensors."""

    exit_code = 2


class BadRecipe(CheckpointError):
    """A setting of a fine-tuning that is out of its range or does not fit the model."""

    exit_code = 2


class BadText(CheckpointError):
    """A text to train on that cannot be read, is no text, or is too short."""

    exit_code = 2


class BadAdapter(CheckpointError):
    """A directory that holds no LoRA adapter, or not a whole one."""

    exit_code = 2


class WrongBase(CheckpointError):
    """An adapter that was trained for another model than the one it is to be served with."""

    exit_code = 2


class OutputExists(CheckpointError):
    """An output directory that already holds something."""

    exit_code = 2


class MissingPackage(CheckpointError):
    """Work that needs a package of the `cpu` or `gpu` extra, which is not installed."""

    exit_code = 3


class DiskFull(CheckpointError):
    """The disk has no room for the files."""

    exit_code = 3


class CacheNotWritable(CheckpointError):
    """The directory for what is made once is on a file system, or of a user, that lets nothing be written."""

    exit_code = 3


class TrainingFailed(CheckpointError):
    """A training that ended without a model or an adapter."""


class FetchFailed(CheckpointError):
    """A download from the hub that did not complete."""


class AccessDenied(FetchFailed):
    """The hub wants a token, or a licence that has not been accepted."""


class RepositoryNotFound(FetchFailed):
    """The hub knows no such repository or revision, or it holds no files that can be used."""

    exit_code = 2


class HubUnreachable(FetchFailed):
    """The hub could not be reached, or the connection was cut."""
