"""Runs a model and its reference on the same inputs and compares what comes out. Python 3.6 to 3.13.

In one environment both run side by side. In two, one job records inputs and outputs, as much as the disk
is allowed to take, and the next one runs the recorded inputs through the reference; they take turns.
"""

import json
import os

import probe
from worker import JobError

from runtime import comparing, feeds, metrics, runners

WORST = "worst.npz"
STATE = "state.json"


def run(params, io):
    """Role "both", "record" or "compare".

    params: "subject" and "reference" (runners), "inputs" (feeds.open_source), "task", "labels" (see
    metrics.open_metric, with a list "names") or None, "tolerance" (comparing.Output.limits),
    "keep_worst". record: "start" and "budget" in bytes. compare: "recorded", a folder, "state", the file
    that the job before wrote, or None, and "last".
    """
    return {"both": both, "record": record, "compare": compare}[params["role"]](params, io)


def both(params, io):
    subject = runners.open_runner(params["subject"], io, slots=1)
    try:
        described = describe(subject)
        reference = runners.open_runner(adapted(params["reference"], described), io, slots=1)
        try:
            judge = Judge(params, described, reference)
            source = feeds.open_source(
                params["inputs"], subject.inputs, subject_task(params, described), io
            )
            for number in range(len(source)):
                io.progress("comparing", number + 1, len(source))
                batch = source.read(number)
                if batch is not None:
                    judge.add(batch, subject.run(batch.arrays))
            return dict(judge.finish(io, last=True), **facts(subject, reference))
        finally:
            reference.close()
    finally:
        subject.close()


def record(params, io):
    """Batches from `start` on, until `budget` bytes are written; "next" is None at the end."""
    runner = runners.open_runner(params["subject"], io, slots=1)
    try:
        described = describe(runner)
        source = feeds.open_source(
            params["inputs"], runner.inputs, subject_task(params, described), io
        )
        number, written = params["start"], 0
        while number < len(source) and written < params["budget"]:
            io.progress("running %s" % params["subject"]["runtime"], number + 1, len(source))
            batch = source.read(number)
            if batch is not None:
                written += keep(batch, runner.run(batch.arrays), described, io)
            number += 1
        with open(io.path("recording.json"), "w", encoding="utf-8") as handle:
            json.dump(described, handle)
        return dict(facts(runner), next=number if number < len(source) else None)
    finally:
        runner.close()


def keep(batch, outputs, described, io):
    """Write a batch; returns its bytes. Names of tensors may be anything: files have numbers."""
    import numpy as np

    arrays = {"i%d" % i: batch.arrays[e["name"]] for i, e in enumerate(described["inputs"])}
    arrays.update(("o%d" % i, outputs[e["name"]]) for i, e in enumerate(described["outputs"]))
    path = io.path("batch-%06d" % batch.number)
    np.savez(path + ".npz", **arrays)
    told = {key: getattr(batch, key) for key in ("number", "title", "items", "truths", "sizes")}
    told["placements"] = batch.placements and [list(entry) for entry in batch.placements]
    with open(path + ".json", "w", encoding="utf-8") as handle:
        json.dump(told, handle)
    return os.path.getsize(path + ".npz")


def compare(params, io):
    with open(os.path.join(params["recorded"], "recording.json"), encoding="utf-8") as handle:
        described = json.load(handle)
    reference = runners.open_runner(adapted(params["reference"], described), io, slots=1)
    try:
        judge = Judge(params, described, reference)
        names = sorted(name for name in os.listdir(params["recorded"]) if name.endswith(".npz"))
        for number, name in enumerate(names):
            io.progress("comparing", number + 1, len(names))
            judge.add(*recalled(os.path.join(params["recorded"], name), described))
        return dict(judge.finish(io, last=params["last"]), **facts(None, reference))
    finally:
        reference.close()


def recalled(path, described):
    import numpy as np

    with open(path[: -len(".npz")] + ".json", encoding="utf-8") as handle:
        told = json.load(handle)
    with np.load(path, allow_pickle=False) as kept:
        arrays = {e["name"]: kept["i%d" % i] for i, e in enumerate(described["inputs"])}
        outputs = {e["name"]: kept["o%d" % i] for i, e in enumerate(described["outputs"])}
    if told["placements"]:
        from vision import preprocess

        told["placements"] = [
            preprocess.Placement(*(tuple(v) if isinstance(v, list) else v for v in entry))
            for entry in told["placements"]
        ]
    return feeds.Batch(arrays=arrays, **told), outputs


class Judge(object):
    """Holds one side's outputs against the reference's, which it runs."""

    def __init__(self, params, described, reference):
        self.tolerance, self.keep_worst = params["tolerance"], params["keep_worst"]
        self.reference, self.described = reference, described
        card = params["task"]
        found = [entry["name"] for entry in described["outputs"]]
        self.expected = [tensor.name for tensor in reference.outputs]
        state = read_state(params.get("state"))
        if state is None:
            kind = card["kind"] if card else None
            self.comparison = comparing.Comparison.start(found, self.expected, kind)
            self.comparison.check(self.tolerance)
        else:
            self.comparison = comparing.Comparison.resume(state["comparison"])
        self.names = dict(input_names(described, reference))
        if state is None:
            self.comparison.notes += [
                "input `%s` goes into `%s` of the reference, by order" % names
                for names in self.names.items()
                if len(set(names)) > 1
            ]
        self.metric = self.tasks = None
        if params["labels"]:
            labels = card.get("labels")
            self.metric = metrics.open_metric(params["labels"], labels, state and state["metric"])
            options = dict(metrics.OPTIONS[card["kind"]])
            self.tasks = {
                "subject": make_task(params, described, found, options),
                "reference": make_task(params, described, self.expected, options),
            }

    def add(self, batch, found):
        feed = {
            self.names[name]: array for name, array in batch.arrays.items() if name in self.names
        }
        try:
            expected = self.reference.run(feed)
        except JobError as error:
            raise JobError(error.kind, "in the reference: " + error.message, error.hint)
        self.comparison.add(batch, found, expected, self.tolerance)
        if self.metric is not None:
            sides = {"subject": found, "reference": expected}
            results = {
                side: self.tasks[side].finish(outputs, batch.placements)
                for side, outputs in sides.items()
            }
            for side, each in results.items():
                if len(each) != len(batch.items):
                    raise JobError(
                        "task",
                        "the outputs of the %s are not those of a %s"
                        % (side, self.tasks[side].kind),
                        "say what they are: --task, --layout",
                    )
            self.metric.add(batch, results)

    def finish(self, io, last):
        """The answer so far. state.json lets the next job go on, worst.npz lets a bisection look."""
        import numpy as np

        comparison = self.comparison
        if self.keep_worst and comparison.inputs is not None:
            order = enumerate(entry["name"] for entry in self.described["inputs"])
            np.savez(io.path(WORST), **{"i%d" % i: comparison.inputs[name] for i, name in order})
        if not last:
            state = {"comparison": comparison.state()}
            state["metric"] = self.metric.state() if self.metric else None
            with open(io.path(STATE), "w", encoding="utf-8") as handle:
                json.dump(state, handle)
        if last and not comparison.items:
            raise JobError("inputs", "no input could be read, so nothing was compared")
        answer = comparison.summary(self.tolerance) if comparison.items else {}
        answer["metric"] = self.metric.result() if self.metric and last else None
        answer["worst_kept"] = bool(self.keep_worst and comparison.inputs is not None)
        return answer


def read_state(path):
    if path is None:
        return None
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def describe(runner):
    """Inputs and outputs as plain lists, for the job of the other side."""
    return {
        "inputs": [dict(tensor._asdict()) for tensor in runner.inputs],
        "outputs": [dict(tensor._asdict()) for tensor in runner.outputs],
    }


def input_tensors(params, described):
    """With the shapes that the user or the file's export tells, which go before the runner's."""
    found = [runners.Tensor(**entry) for entry in described["inputs"]]
    shapes = feeds.by_input(params["inputs"].get("shapes", {}), found)
    told = {name: sizes for name, sizes in shapes.items() if "values_of" not in sizes}
    return [
        tensor._replace(**{case: told[tensor.name][key] for case, key in feeds.KEYS.items()})
        if tensor.name in told
        else tensor
        for tensor in found
    ]


def adapted(params, described):
    """PyTorch has no names for what goes in and comes out: it gets the other side's."""
    if params["runtime"] != "torch":
        return params
    inputs = [
        {key: entry[key] for key in ("name", "dtype", "shape")} for entry in described["inputs"]
    ]
    return dict(params, inputs=inputs, outputs=[entry["name"] for entry in described["outputs"]])


def input_names(described, reference):
    """Pairs of the recorded name and the reference's: by name, else by order."""
    names = [entry["name"] for entry in described["inputs"]]
    wanted = [tensor.name for tensor in reference.inputs]
    pairs, _, missing = comparing.matched(names, wanted)
    if missing:
        raise JobError(
            "inputs",
            "the reference takes %s, and there is %s"
            % (comparing.listed(wanted), comparing.listed(names)),
            "is the reference the model that this was made from? name it with --against",
        )
    return pairs


def subject_task(params, described):
    """Prepares the images; None where the inputs are none."""
    if params["inputs"]["kind"] != "images":
        return None
    return make_task(params, described, [entry["name"] for entry in described["outputs"]], {})


def make_task(params, described, outputs, options):
    from vision import tasks

    inputs = input_tensors(params, described)
    if len(inputs) != 1:
        raise JobError(
            "inputs",
            "images are one input, and the model has %s"
            % comparing.listed([tensor.name for tensor in inputs]),
            "put one array per input into an .npz file",
        )
    return tasks.make_task(params["task"], inputs[0], outputs, options)


def facts(subject, reference=None):
    """What ran, and where."""
    sides = {"subject": subject, "reference": reference}
    ran = {side: runner for side, runner in sides.items() if runner is not None}
    versions = {}
    for runner in ran.values():
        versions.update(runners.libraries(runner))
    told = {side: runner.describe() for side, runner in ran.items()}
    return {"ran": told, "environment": probe.stamp_facts(versions)}
