"""Runs a model over files of tensors; the rows of each file are cut into batches. Python 3.6 to 3.13."""

from worker import JobError

from runtime import runners, sinks, sources
from runtime.job import Job


class Tensors(Job):
    def prepare(self):
        for name in ("pictures", "sheet"):
            if name in self.save:
                raise JobError("save", "tensors have no pictures", "leave %s out of --save" % name)
        spec, inputs = self.params["sources"], self.runner.inputs
        self.inputs, self.kind, self.batch = inputs, spec["kind"], self.params.get("batch")
        self.shapes = self.params.get("shapes") or {}
        if self.shapes:
            runners.check_names(inputs, [*self.shapes, *(tensor.name for tensor in inputs)])
        self.sets = sources.group(self.kind, self.files, inputs)
        self.total = len(self.sets)
        self.names = sinks.names_of([{"name": name} for name, _ in self.sets])
        self.lines = sinks.Lines(self.io, self.save)
        self.parts = []

    def work(self):
        coming = self.start_reading(0)
        for number, (name, _) in enumerate(self.sets):
            if self.interrupts.caught is not None:
                break
            future, coming = coming, self.start_reading(number + 1)
            try:
                arrays = self.stages.wait("decode", future.result)
                cut, pieces = sources.pieces(self.inputs, arrays, self.batch)
                self.check(arrays, cut, pieces)
            except JobError as error:
                self.land_all()
                self.counts.fail(name, error.message, error)
                self.lines.write(sinks.line({"file": name, "error": error.message}), [])
                continue
            for piece in pieces:
                self.launch(number, arrays, cut, piece, piece is pieces[-1])

    def start_reading(self, number):
        """One file ahead of the one that runs."""
        if number == len(self.sets):
            return None
        files = self.sets[number][1]
        return self.copies.submit(sources.read, self.kind, files, self.inputs, self.shapes)

    def check(self, arrays, cut, pieces):
        """JobError before anything of the set runs."""
        for tensor in self.inputs:
            shape = arrays[tensor.name].shape
            for piece in pieces:
                rows = (piece.rows, *shape[1:]) if tensor.name in cut else shape
                runners.check_shape(tensor, rows)

    def launch(self, number, arrays, cut, piece, last):
        import numpy as np

        shapes = {name: array.shape for name, array in arrays.items()}
        shapes.update({name: (piece.rows, *arrays[name].shape[1:]) for name in cut})

        def fill(slot):
            for name, array in arrays.items():
                if name not in cut:
                    np.copyto(slot.inputs[name], array)
                    continue
                end = piece.first + piece.count
                slot.inputs[name][: piece.count] = array[piece.first : end]
                slot.inputs[name][piece.count :] = array[end - 1 : end]

        told = {name: list(array.shape) for name, array in arrays.items()}
        landed = self.flight.launch(shapes, fill, (number, piece, told, last))
        if landed is not None:
            self.finish(*landed[0], outputs=landed[1])

    def land_all(self):
        for tag, outputs in self.flight.drain():
            self.finish(*tag, outputs=outputs)

    def finish(self, number, piece, told, last, outputs):
        self.parts.append((piece, outputs))
        if not last:
            return
        outputs, self.parts = sources.gather(self.parts), []
        name = self.sets[number][0]
        shapes = {key: list(array.shape) for key, array in outputs.items()}
        entry = {"file": name, "inputs": told, "outputs": shapes}
        try:
            self.stages.wait(
                "write", sinks.save_arrays, self.io, self.save, self.names[number], outputs
            )
            self.lines.write(sinks.line(entry), [(name, sinks.Found(outputs))])
        except OSError as error:
            raise sinks.no_room(error)
        self.counts.done += 1
        self.tell()

    def close(self):
        try:
            self.land_all()
        finally:
            self.lines.close()
            self.copies.shutdown()
