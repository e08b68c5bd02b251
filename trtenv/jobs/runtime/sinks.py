"""Where results go: lines as they are made, arrays and pictures by name, each file whole. Python 3.6 to 3.13."""

import collections
import csv
import hashlib
import io as streams
import json
import os
import re
import shutil
import zipfile

from worker import JobError

from runtime import runners, workers

PICTURES_IN_SHEET = 64
CELL = (320, 320)
LONGEST = 150  # bytes of one part of a name; file systems take 255, and endings are added
# By the kind of a result.
HEADERS = {
    "classification": ("file", "rank", "index", "label", "score"),
    "detection": ("file", "index", "label", "score", "x1", "y1", "x2", "y2"),
    "segmentation": ("file", "index", "label", "share"),
    "tensors": ("file", "output", "dtype", "shape", "minimum", "maximum", "mean"),
}


class Found(object):
    """The outputs for one file of tensors, in the place of a task's result."""

    kind = "tensors"

    def __init__(self, outputs):
        self.outputs = outputs


def names_of(files):
    """What results of each file are called: its name without folders and ending, where that tells it apart.

    Else as much as needed of: the ending, the folders, both, a number. Relative, and never upwards.
    """
    parts = [safe_parts(entry["name"]) for entry in files]
    choices = [
        [stem(names[-1]), names[-1], "/".join([*names[:-1], stem(names[-1])]), "/".join(names)]
        for names in parts
    ]
    counts = [
        collections.Counter(choice[level].lower() for choice in choices) for level in range(4)
    ]
    taken, found = set(), []
    for choice in choices:
        name = choice[2]
        for level in range(4):
            if counts[level][choice[level].lower()] == 1:
                name = choice[level]
                break
        if name.lower().endswith(".mask"):  # else its picture is called as the mask of another
            name += "_"
        unique, number = name, 1
        while unique.lower() in taken:
            number += 1
            unique = "%s-%d" % (name, number)
        taken.add(unique.lower())
        found.append(unique)
    return found


def stem(name):
    return os.path.splitext(name)[0] or name


def safe_parts(name):
    """The parts of a path, none of which leads upwards or is too long for a file system."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    return [safe_part(part) for part in parts] or ["input"]


def safe_part(text):
    text = re.sub(r"[\x00-\x1f\x7f:*?\"<>|]", "_", text)
    data = text.encode("utf-8", "surrogateescape")
    if len(data) <= LONGEST:
        return text
    mark = hashlib.sha256(data).hexdigest()[:8]
    root, ending = os.path.splitext(text)
    cut = root.encode("utf-8", "surrogateescape")[: LONGEST - 30].decode("utf-8", "ignore")
    return "%s-%s%s" % (cut, mark, ending[:16])


def clean(value):
    """For JSON, which has no NaN and no infinity."""
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, dict):
        return {key: clean(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(entry) for entry in value]
    return value


def line(entry):
    try:
        text = json.dumps(entry, allow_nan=False)
    except ValueError:
        text = json.dumps(clean(entry))
    return text + "\n"


def csv_rows(file, result, labels):
    """Rows of one result, as HEADERS has them for its kind."""
    if result.kind == "classification":
        for rank, (index, score) in enumerate(zip(result.indices, result.scores), 1):
            yield file, rank, int(index), label(labels, index), "%.6g" % score
    elif result.kind == "detection":
        for box, score, index in zip(result.boxes, result.scores, result.classes):
            edges = ["%.2f" % edge for edge in box]
            yield (file, int(index), label(labels, index), "%.6g" % score, *edges)
    elif result.kind == "segmentation":
        for index, share in result.shares.items():
            yield file, int(index), label(labels, index), "%.6g" % share
    else:
        for name, array in result.outputs.items():
            numbers = array.astype("float64")
            told = [numbers.min(), numbers.max(), numbers.mean()] if array.size else []
            told = ["%.7g" % number for number in told]
            yield (file, name, array.dtype, runners.show(array.shape), *told)


def label(labels, index):
    return labels[int(index)] if labels and 0 <= index < len(labels) else ""


class Lines(object):
    """results.jsonl and results.csv; what is written is whole lines, at once."""

    def __init__(self, io, save, labels=None):
        self._labels = labels
        self._json = self._csv = self._header = None
        self._target = io.path("results.csv")
        if "json" in save:
            self._json = open(io.path("results.jsonl"), "wb", buffering=0)
        if "csv" in save:
            self._csv = open(self._target + ".part", "wb", buffering=0)

    def write(self, json_text, found):
        """`found`: [(file, result)], for CSV; its columns are those of the first one's kind."""
        if self._json is not None and json_text:
            self._json.write(json_text.encode("utf-8", "backslashreplace"))
        if self._csv is None or not found:
            return
        text = streams.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self._header is None:
            self._header = HEADERS[found[0][1].kind]
            writer.writerow(self._header)
        for file, result in found:
            writer.writerows(csv_rows(file, result, self._labels))
        self._csv.write(text.getvalue().encode("utf-8", "backslashreplace"))

    def close(self):
        if self._json is not None:
            self._json.close()
        if self._csv is not None:
            self._csv.close()
            os.replace(self._target + ".part", self._target)


def save_arrays(io, save, name, outputs):
    """outputs/NAME.npz, and outputs/NAME.OUTPUT.npy."""
    import numpy as np

    if "npz" in save:
        target = io.path(os.path.join("outputs", name + ".npz"))
        workers.write_whole(target, lambda handle: save_npz(handle, outputs))
    if "npy" in save:
        for output, array in outputs.items():
            path = "%s.%s.npy" % (name, safe_part(re.sub(r"[/\\]", "_", output)))
            workers.write_whole(
                io.path(os.path.join("outputs", path)),
                lambda handle, array=array: np.save(handle, np.ascontiguousarray(array)),
            )


def save_npz(handle, arrays):
    """numpy.savez for any names: an output may be called as a parameter of that function."""
    import numpy as np

    with zipfile.ZipFile(handle, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(name + ".npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


class Pictures(object):
    """Pictures, masks and the contact sheet: drawn by workers, few at a time."""

    def __init__(self, io, save, names, pool, stages):
        self._io, self._names, self._pool, self._stages = io, names, pool, stages
        self._wanted = "pictures" in save
        self._pending = collections.deque()
        self._sheet, self._cells = set(), []
        if "sheet" in save:
            count = min(len(names), PICTURES_IN_SHEET)
            self._sheet = {index * len(names) // count for index in range(count)}

    def __bool__(self):
        return self._wanted or bool(self._sheet)

    def add(self, item, result):
        picture = mask = None
        name = self._names[item.index]
        if self._wanted:
            jpeg = item.file["path"].lower().endswith(workers.JPEG)
            ending = ".jpg" if jpeg else ".png"
            picture = self._io.path(os.path.join("pictures", name + ending))
            if getattr(result, "mask", None) is not None:
                mask = self._io.path(os.path.join("pictures", name + ".mask.png"))
        cell = CELL if item.index in self._sheet else None
        if picture is None and cell is None:
            return
        while len(self._pending) >= 4 * self._pool.count:
            self._stages.wait("write", self._take)
        future = self._pool.draw(item.file["path"], result, picture, mask, cell)
        self._pending.append((item, future))

    def _take(self):
        item, future = self._pending.popleft()
        try:
            thumbnail = future.result()
        except workers.Died:
            raise JobError("crashed", "drawing the result of `%s` crashed" % item.file["name"])
        except OSError as error:
            raise no_room(error)
        if thumbnail is not None:
            self._cells.append((item.file["name"], thumbnail))

    def close(self):
        """Waits for all pictures; then the sheet of those chosen."""
        while self._pending:
            self._stages.wait("write", self._take)
        if self._cells:
            from vision import draw

            sheet = draw.contact_sheet(self._cells, cell=CELL)
            try:
                workers.save_picture(sheet, self._io.path("sheet.png"))
            except OSError as error:
                raise no_room(error)


def no_room(error):
    return JobError("write", "results cannot be written: %s" % error, "free space, or save less")


def clear(io):
    """Makes room for what the worker says of the failure; results of which some are missing are none."""
    for name in os.listdir(io.out):
        path = io.path(name)
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.unlink(path)
