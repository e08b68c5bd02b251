"""A client in a process of its own, to be interrupted, killed, or run as somebody else.

python client.py session IMAGE STAGING JOBS PARAMS    one job; events and its values on stdout
python client.py execute IMAGE ARGV...                as `trtenv exec` does
"""

import json
import signal
import sys
from pathlib import Path

from trtenv import console
from trtenv.catalog.model import Environment
from trtenv.errors import TrtenvError
from trtenv.runners import container
from trtenv.runners.docker import DockerRunner
from trtenv.runners.protocol import Job, RunOptions


def session(image: str, staging: str, jobs: str, params: str) -> int:
    container.JOBS_FOLDER = Path(jobs)  # type: ignore[misc]
    environment = Environment(name="test", image=image)
    wish = json.loads(params)
    with DockerRunner().session(environment, RunOptions(), Path(staging)) as worker:
        result = worker.run(Job(wish.pop("kind"), wish), report)
    report({"values": result.values})
    return 0


def report(event: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def execute(image: str, *argv: str) -> int:
    return DockerRunner().execute(Environment(name="test", image=image), RunOptions(), argv)


def terminate(number: int, _: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit({"session": session, "execute": execute}[sys.argv[1]](*sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except TrtenvError as problem:
        console.error(problem)
        sys.exit(problem.exit_code)
