"""Every error that a user can meet, in one place because callers choose among them by exit code.

TrtenvError                     1
+- UsageError                   2   the request itself is wrong
|  +- UnknownEnvironment
+- ResolutionError              3   no environment fits; every candidate and why not
+- HostError                    4   this machine lacks something
|  +- DaemonUnavailable             no container daemon, not running, or no permission
|  +- GpuUnavailable
|  +- InterpreterMissing
|  +- OutputBusy                    another trtenv writes the same file
+- EnvironmentFailed            5   an image or venv could not be had, or is not what was locked
|  +- NotLocked
+- JobFailed                    6   export, build or another job ended without its result
|  +- OutOfMemory
+- ArtifactError                7   a file is not what it should be: cut, foreign, stamp differs
+- ModelRefused                 8   this TensorRT cannot take the model, as far as tables know
+- VerifyFailed                12   a model does not do what its reference does

9 is `lint --strict` of a model that is risky. 10 and 11 are `check` of an engine that will not run,
or of which that is not known. 130 is Ctrl-C. Anything else is a bug of trtenv and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ArtifactError",
    "DaemonUnavailable",
    "EnvironmentFailed",
    "GpuUnavailable",
    "HostError",
    "InterpreterMissing",
    "JobFailed",
    "ModelRefused",
    "NotLocked",
    "OutOfMemory",
    "OutputBusy",
    "ResolutionError",
    "TrtenvError",
    "UnknownEnvironment",
    "UsageError",
    "VerifyFailed",
]


class TrtenvError(Exception):
    """What failed and the value seen; `hint` is the command or change that mends it."""

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str | None = None, details: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)

    def to_dict(self) -> dict[str, object]:
        """For --json; `kind` is the name in the list above."""
        return {
            "kind": type(self).__name__,
            "exit_code": self.exit_code,
            "message": self.message,
            "hint": self.hint,
            "details": list(self.details),
        }


class UsageError(TrtenvError):
    exit_code = 2


class UnknownEnvironment(UsageError):
    pass


class ResolutionError(TrtenvError):
    exit_code = 3


class HostError(TrtenvError):
    exit_code = 4


class DaemonUnavailable(HostError):
    pass


class GpuUnavailable(HostError):
    pass


class InterpreterMissing(HostError):
    pass


class OutputBusy(HostError):
    pass


class EnvironmentFailed(TrtenvError):
    exit_code = 5


class NotLocked(EnvironmentFailed):
    pass


class JobFailed(TrtenvError):
    exit_code = 6


class OutOfMemory(JobFailed):
    pass


class ArtifactError(TrtenvError):
    exit_code = 7


class ModelRefused(TrtenvError):
    exit_code = 8


class VerifyFailed(TrtenvError):
    exit_code = 12
