"""Runs a model over images or tensors, however many, and writes what it finds. Python 3.6 to 3.13.

Images stream: workers prepare the next ones while the model runs and earlier results are written; results
come in the order of the inputs. A first SIGINT or SIGTERM ends the job after the batches in flight.
"""

import collections
import os
from concurrent.futures import ThreadPoolExecutor

import probe
import taskcards
from worker import JobError

from runtime import runners, sinks, sources, stream, tensors, workers
from runtime.job import Interrupts, Job

USUAL_BATCH = 8  # where neither a profile nor the model says
FEW_IMAGES = 64  # for which no processes are started
PREPARED_BYTES = 6 << 20  # what a worker is asked for at a time
MOST_AT_A_TIME = 8
FINISHERS = 3


def run(params, io):
    images = params["sources"]["kind"] == "images"
    crew = start_early(params, io) if images else None
    runner = None
    try:
        io.progress("loading the model")
        runner = runners.open_runner(params["runner"], io, slots=params.get("slots") or 2)
        with Interrupts() as interrupts:
            common = (runner, params, io, interrupts)
            job = Images(*common, crew=crew) if images else tensors.Tensors(*common)
            values = job.run()
        values["task"] = job.card
        values["runner"] = runner.describe()
        values["environment"] = probe.stamp_facts(runners.libraries(runner))
    except JobError as error:
        if error.kind == "write":
            sinks.clear(io)
        raise
    finally:
        if crew is not None:
            crew.close()
        if runner is not None:
            runner.close()
    return values


def threads_of(params):
    threads = params.get("threads") or len(os.sched_getaffinity(0))
    return max(1, min(threads, len(params["sources"]["files"])))


def start_early(params, io):
    """Processes that import what they need while the model loads, where there is work for them.

    None for images of their own size: how large a prepared one is, shows when it is decoded.
    """
    few = len(params["sources"]["files"]) < FEW_IMAGES
    threads = threads_of(params)
    if few or threads <= workers.THREADS_ENOUGH or params.get("size") == "image":
        return None
    return workers.early_crew(threads, io)


class Images(Job):
    what = "images"

    def __init__(self, runner, params, io, interrupts, crew):
        super(Images, self).__init__(runner, params, io, interrupts)
        self.crew = crew

    def prepare(self):
        from vision import tasks

        own = getattr(self.runner, "task", None)  # of a PyTorch model's file
        card = self.params.get("task") or taskcards.merged(own, self.params.get("wish"))
        if not card:
            raise JobError(
                "task",
                "nothing says how images become the model's input, nor what its outputs mean",
                "say what the model does: --task classify, detect or segment",
            )
        self.card = card
        self.tensor = image_input(self.runner.inputs)
        for file in self.files:
            if file.get("input"):
                runners.check_names([self.tensor], [file["input"]])
        self.batch, self.least = batch_of(self.tensor, self.params.get("batch"))
        spec = {
            "card": card,
            "tensor": self.tensor,
            "outputs": [tensor.name for tensor in self.runner.outputs],
            "options": self.params["options"],
            "size": self.params.get("size"),
            "dtype": str(runners.numpy_dtype(self.tensor.dtype)),
        }
        self.task = tasks.make_task(
            card, self.tensor, spec["outputs"], spec["options"], spec["size"]
        )
        self.labels = card.get("labels")
        self.start_workers(spec)
        self.names = sinks.names_of(self.files)
        self.lines = sinks.Lines(self.io, self.save, self.labels)
        self.pictures = sinks.Pictures(self.io, self.save, self.names, self.pool, self.stages)
        self.finishers = ThreadPoolExecutor(max_workers=FINISHERS)
        self.finishing = collections.deque()

    def start_workers(self, spec):
        """Memory for what they have in hand, twice, and one batch."""
        import numpy as np

        self.threads = threads_of(self.params)
        rows, chunk = None, 1
        cells = self.batch + 2 * self.threads
        if spec["size"] != "image":
            frame = self.task.frame(np.zeros((1, 1, 3), "uint8"))
            shape = tuple(self.task.shape(1, frame)[-3:])
            size = max(workers.size_of(shape, spec["dtype"]), 1)
            share = self.total // self.threads
            chunk = max(1, min(MOST_AT_A_TIME, PREPARED_BYTES // size, share))
            cells = self.batch + 2 * self.threads * chunk
            rows = (cells, *shape)
        self.pool = workers.Pool(spec, self.threads, rows, self.crew)
        self.ahead = stream.Ahead(self.files, self.pool, cells, chunk, self.stages)

    def work(self):
        for batch in stream.batches(self.ahead, self.batch):
            if self.interrupts.caught is not None:
                break
            for item in batch.items:
                if item.error is not None:
                    self.counts.fail(item.file["name"], item.error)
            if batch.good:
                self.launch(batch)
            else:
                self.land_all()
                self.finish(batch, None, {})

    def launch(self, batch):
        rows = [item.row for item in batch.good]
        piece = sources.Piece(0, len(rows), max(len(rows), self.least))
        rows += rows[-1:] * (piece.rows - piece.count)

        def fill(slot):
            target = self.task.views(slot.inputs[self.tensor.name])
            stream.copy_rows(target, rows, self.copies)
            self.ahead.release(batch.good)

        batched = len(self.tensor.shape) == 4
        shapes = {self.tensor.name: (piece.rows, *batch.shape) if batched else batch.shape}
        light = batch._replace(good=[item._replace(row=None) for item in batch.good])
        landed = self.flight.launch(shapes, fill, (light, piece))
        if landed is not None:
            self.finish(*landed[0], outputs=landed[1])
        self.tell()

    def land_all(self):
        for (batch, piece), outputs in self.flight.drain():
            self.finish(batch, piece, outputs)

    def finish(self, batch, piece, outputs):
        """Results are made by other threads and written by this one, in order."""
        future = self.finishers.submit(self.made, batch, piece, outputs)
        self.finishing.append((batch, future))
        while self.finishing and (len(self.finishing) > FINISHERS or self.finishing[0][1].done()):
            self.write()

    def made(self, batch, piece, outputs):
        """(lines of JSON, [(file, result)] for CSV, results) of one batch."""
        results = []
        if batch.good:
            outputs = {name: sources.trimmed(array, piece) for name, array in outputs.items()}
            results = self.task.finish(outputs, [item.placement for item in batch.good])
        texts, rows, turn = [], [], 0
        for item in batch.items:
            name = item.file["name"]
            if item.error is not None:
                texts.append(sinks.line({"file": name, "error": item.error}))
                continue
            found = results[turn].to_dict(self.labels)
            entry = {"file": name, "size": list(item.size)}
            entry.update(found)
            texts.append(sinks.line(entry))
            if "csv" in self.save:
                rows.append((name, results[turn]))
            if "npz" in self.save or "npy" in self.save:
                own = {
                    key: array[turn] if array.ndim and len(array) == piece.count else array
                    for key, array in outputs.items()
                }
                sinks.save_arrays(self.io, self.save, self.names[item.index], own)
            turn += 1
        return "".join(texts), rows, results

    def write(self):
        batch, future = self.finishing.popleft()
        try:
            text, rows, results = self.stages.wait("write", future.result)
            self.lines.write(text, rows)
        except OSError as error:
            raise sinks.no_room(error)
        self.counts.done += len(results)
        if self.pictures:
            for item, result in zip(batch.good, results):
                self.pictures.add(item, result)

    def close(self):
        """Finishes what is done, also where the job ends early."""
        self.ahead.cancel()
        try:
            self.land_all()
            while self.finishing:
                self.write()
            self.pictures.close()
        finally:
            self.lines.close()
            self.pool.close()
            self.finishers.shutdown()
            self.copies.shutdown()


def image_input(inputs):
    if len(inputs) == 1 and len(inputs[0].shape) in (3, 4):
        return inputs[0]
    raise JobError(
        "inputs",
        "images go into a model of one input, a batch of images; this one has %s"
        % (", ".join("%s:%s" % (t.name, runners.show(t.shape)) for t in inputs) or "none"),
        "give it tensors: --input NAME=FILE.npy for each, or an .npz file",
    )


def batch_of(tensor, asked):
    """(rows of a batch, fewest rows that the model takes); 1 where its input is a single image."""
    if len(tensor.shape) == 3:
        return 1, 1
    fixed = tensor.shape[0]
    low, high = (tensor.minimum or [1])[0], (tensor.maximum or [None])[0]
    if fixed >= 0:
        low = high = fixed
    if asked and ((high and asked > high) or (fixed >= 0 and asked != fixed)):
        takes = "of %d" % low if low == high else "of %d to %d" % (low, high)
        raise JobError(
            "shape",
            "batches of %d were asked for; the model takes batches %s" % (asked, takes),
            "leave --batch out, or build with a larger maximum in --shapes",
        )
    best = (tensor.optimum or [None])[0]
    return asked or (fixed if fixed >= 0 else best or high or USUAL_BATCH), low
