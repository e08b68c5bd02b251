"""Runs jobs inside an environment: Python 3.6 to 3.13, standard library only.

    python3 worker.py FOLDER OUT [FOLDER OUT ...]    run these jobs, then end
    python3 worker.py                                run the jobs that come on stdin, one JSON a line

FOLDER holds job.json; files and result.json are written to OUT. One JSON event a line leaves on
stdout; everything else that a library prints goes to stderr. When stdin ends, the worker ends at
once, whatever runs: a client that was killed leaves no work behind.
"""

import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback


class JobError(Exception):
    """A failure that the user can act on; kind is one of the words in the host's table."""

    def __init__(self, kind, message, hint=None):
        super(JobError, self).__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class Channel(object):
    """The private way to the host: the process's first stdout, kept apart from prints."""

    def __init__(self):
        self._pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # C++ libraries write to descriptor 1 as they please
        sys.stdout = sys.stderr
        self._lock = threading.Lock()

    def send(self, event):
        line = json.dumps(event, sort_keys=True)
        with self._lock:
            self._pipe.write(line + "\n")
            self._pipe.flush()


class JobIO(object):
    """What a job script is given: its parameters, its output folder and a voice."""

    def __init__(self, name, out, channel):
        self.name = name
        self.out = out
        self._channel = channel

    def path(self, filename):
        return os.path.join(self.out, filename)

    def log(self, text):
        self._channel.send({"event": "log", "job": self.name, "text": text})

    def progress(self, phase, done=None, total=None):
        self._channel.send(
            {"event": "progress", "job": self.name, "phase": phase, "done": done, "total": total}
        )


def run_job(folder, out, channel):
    """Run one job; returns its result event. result.json is written whole or not at all."""
    started = time.time()
    with open(os.path.join(folder, "job.json"), encoding="utf-8") as handle:
        job = json.load(handle)
    name = os.path.basename(os.path.normpath(folder))
    io = JobIO(name, out, channel)
    channel.send({"event": "start", "job": name, "kind": job["kind"]})
    result = {"ok": True, "error": None, "values": {}}
    try:
        module = importlib.import_module(job["kind"])
        result["values"] = module.run(job["params"], io)
    except JobError as error:
        result["ok"] = False
        result["error"] = {
            "kind": error.kind,
            "message": error.message,
            "hint": error.hint,
            "trace": None,
        }
    except MemoryError:
        result["ok"] = False
        result["error"] = {
            "kind": "out-of-memory",
            "message": "the job ran out of memory",
            "hint": None,
            "trace": traceback.format_exc(),
        }
    except BaseException as error:  # SystemExit too: model code may call sys.exit()
        result["ok"] = False
        result["error"] = {
            "kind": "raised",
            "message": "%s: %s" % (type(error).__name__, error),
            "hint": None,
            "trace": traceback.format_exc(),
        }
    result["seconds"] = round(time.time() - started, 3)
    target = os.path.join(out, "result.json")
    with open(target + ".part", "w", encoding="utf-8") as handle:
        json.dump(result, handle, sort_keys=True, indent=1)
    os.replace(target + ".part", target)
    return {"event": "result", "job": name, "ok": result["ok"], "seconds": result["seconds"]}


def read_requests(requests):
    try:
        for line in sys.stdin:
            if line.strip():
                requests.put(json.loads(line))
        if requests.unfinished_tasks == 0:
            requests.put(None)
            return
    except ValueError as error:
        sys.stderr.write("worker: no request: %s\n" % error)
    os._exit(9)  # the client is gone in the middle of a job, or speaks another language


def serve(channel):
    requests = queue.Queue()
    thread = threading.Thread(target=read_requests, args=(requests,))
    thread.daemon = True
    thread.start()
    channel.send({"event": "ready", "python": sys.version.split()[0]})
    while True:
        request = requests.get()
        if request is None:
            return 0
        event = run_job(request["folder"], request["out"], channel)
        requests.task_done()  # first: the client may hang up as soon as it has read the event
        channel.send(event)


def main(argv):
    channel = Channel()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    # A job script says `from worker import JobError`: it must be this module, not a second copy.
    sys.modules.setdefault("worker", sys.modules[__name__])
    if not argv:
        return serve(channel)
    ok = True
    for folder, out in zip(argv[::2], argv[1::2]):
        event = run_job(folder, out, channel)
        channel.send(event)
        ok = ok and event["ok"]
    return 0 if ok else 1


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    # Libraries with their own threads (CUDA, TensorRT) may hang or crash in their finalizers; all
    # results are on disk by now.
    os._exit(code)
