"""How far outputs are from their references: measured batch by batch, judged at the end. Python 3.6 to 3.13.

Sums are float64 and hold one batch at a time. What is measured goes from one job to the next as plain
JSON, so that two environments can take turns.
"""

import math

from worker import JobError

FLOOR = 0.01  # of a batch's largest reference value: below it no relative difference is meaningful
NOISE = (
    1e-6  # root mean square; an output that is zero but for rounding has no relative error either
)
AT_MOST = ("rel", "max_abs", "mean_abs", "max_rel")
AT_LEAST = ("cosine", "equal", "top1")
START = {
    "batches": 0, "count": 0, "sum_abs": 0.0, "max_abs": 0.0, "max_abs_at": None, "max_rel": 0.0,
    "rel": 0.0, "rel_at": None, "cosine": None, "equal": 0, "rows": 0, "agreed": 0,
    "bad": 0, "first_bad": None, "same_bad": 0, "shapes": None, "reshaped": False,
    "shape": None, "dtype": None,
}  # fmt: skip


def pair(found, expected):
    """[(name, name in the reference)] and notes: by name; what is left over by order, if it is as many."""
    pairs, left, others = matched(found, expected)
    notes = [
        "`%s` is held against `%s`, by order" % names for names in pairs if len(set(names)) > 1
    ]
    if left or others:
        notes += ["`%s` has no counterpart in the reference" % name for name in left]
        notes += ["`%s` of the reference has no counterpart" % name for name in others]
    if not pairs:
        raise JobError(
            "outputs",
            "no output can be compared: %s here, %s in the reference"
            % (listed(found), listed(expected)),
            "is the reference the model that this was made from? name it with --against",
        )
    order = {name: index for index, name in enumerate(found)}
    return sorted(pairs, key=lambda names: order[names[0]]), notes


def matched(found, expected):
    """(pairs, what is left of both): by name; the rest by order, where it is as many."""
    pairs = [(name, name) for name in found if name in expected]
    left = [name for name in found if name not in expected]
    others = [name for name in expected if name not in found]
    if len(left) == len(others):
        return pairs + list(zip(left, others)), [], []
    return pairs, left, others


def listed(names):
    return ", ".join("`%s`" % name for name in names) or "none"


class Output(object):
    """One output and all that was measured of it so far.

    kind: of the task. Of a detector no output is taken for scores of classes.
    """

    def __init__(self, name, other, kind=None, sums=None):
        self.name, self.other, self.kind = name, other, kind
        self.sums = dict(START, **(sums or {}))

    def add(self, batch, found, expected):
        """`batch` tells number and items (feeds.Batch). Returns the batch's relative error."""
        import numpy as np

        sums = self.sums
        sums["batches"] += 1
        sums["shape"], sums["dtype"] = list(found.shape), str(found.dtype)
        if found.shape != expected.shape:
            if found.size != expected.size:
                shapes = {"found": list(found.shape), "expected": list(expected.shape)}
                sums["shapes"] = sums["shapes"] or dict(shapes, item=batch.item((0,), None))
                return float("inf")
            found, sums["reshaped"] = found.reshape(expected.shape), True
        sums["count"] += found.size
        sums["equal"] += int(np.count_nonzero(found == expected))
        self._add_classes(found, expected)
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        whole, bad = np.isfinite(found) & np.isfinite(expected), 0
        if not whole.all():
            found, expected, bad = self._without_bad(batch, found, expected, whole)
        rel = self._add_finite(batch, found, expected) if whole.any() else 0.0
        return float("inf") if bad else rel

    def _add_classes(self, found, expected):
        """Whether both say the same class, where axis 1 is one of classes."""
        shape = found.shape
        classes = len(shape) >= 2 and shape[1] > 1 and found.dtype.kind not in "iub"
        single = all(size == 1 for size in shape[2:]) and self.kind in (None, "classification")
        pixels = len(shape) == 4 and self.kind == "segmentation"
        if classes and (single or pixels):
            agreed = found.argmax(1) == expected.argmax(1)
            self.sums["rows"] += agreed.size
            self.sums["agreed"] += int(agreed.sum())

    def _without_bad(self, batch, found, expected, whole):
        """Both with zeros where either is NaN or infinite, and how often they are not the same there."""
        import numpy as np

        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        bad = ~whole & ~same
        count = int(np.count_nonzero(bad))
        self.sums["bad"] += count
        self.sums["same_bad"] += int(np.count_nonzero(~whole & same))
        self.sums["equal"] += int(np.count_nonzero(np.isnan(found) & np.isnan(expected)))
        if count and self.sums["first_bad"] is None:
            index = first(bad)
            place = dict(batch.place(index, found.shape), batch=batch.number)
            values = {"found": show(found[index]), "expected": show(expected[index])}
            self.sums["first_bad"] = dict(place, **values)
        return np.where(whole, found, 0.0), np.where(whole, expected, 0.0), count

    def _add_finite(self, batch, found, expected):
        import numpy as np

        sums = self.sums
        difference = np.abs(found - expected)
        size = np.abs(expected)
        sums["sum_abs"] += float(difference.sum())
        index = np.unravel_index(int(difference.argmax()), difference.shape)
        if sums["max_abs_at"] is None or difference[index] > sums["max_abs"]:
            sums["max_abs"] = float(difference[index])
            values = {"found": show(found[index]), "expected": show(expected[index])}
            sums["max_abs_at"] = dict(batch.place(index, found.shape), **values)
        floor = max(float(size.max()) * FLOOR, NOISE)
        sums["max_rel"] = max(sums["max_rel"], float((difference / np.maximum(size, floor)).max()))
        norm, own = float(np.linalg.norm(expected)), float(np.linalg.norm(found))
        rel = float(np.linalg.norm(difference)) / max(norm, NOISE * math.sqrt(found.size))
        if sums["rel_at"] is None or rel > sums["rel"]:
            sums["rel"], sums["rel_at"] = rel, batch.title
        if norm and own:
            cosine = float((found * expected).sum()) / (norm * own)
            sums["cosine"] = cosine if sums["cosine"] is None else min(sums["cosine"], cosine)
        return rel

    @property
    def whole(self):
        """Whether its elements are numbers that are equal or not, such as classes and counts."""
        return (self.sums["dtype"] or "").startswith(("int", "uint", "bool"))

    def limits(self, tolerance):
        """What is asked of it: the defaults for its type, then what the user says of all, then of it.

        `tolerance`: {"float": {key: limit}, "integer": {...}, "asked": {"": {...}, name: {...}}}.
        """
        wanted = dict(tolerance["integer" if self.whole else "float"])
        wanted.update(tolerance["asked"].get("", {}))
        wanted.update(tolerance["asked"].get(self.name, {}))
        return {key: limit for key, limit in wanted.items() if limit is not None}

    def summary(self, tolerance):
        sums, limits = self.sums, self.limits(tolerance)
        count, finite = sums["count"], sums["count"] - sums["bad"] - sums["same_bad"]
        measured = {key: sums[key] if finite else None for key in ("max_abs", "max_rel", "rel")}
        measured["mean_abs"] = sums["sum_abs"] / finite if finite else None
        measured["cosine"] = sums["cosine"]
        judged = count and (self.whole or "equal" in limits)
        measured["equal"] = sums["equal"] / float(count) if judged else None
        measured["top1"] = sums["agreed"] / float(sums["rows"]) if sums["rows"] else None
        problems = list(self._problems(measured, limits))
        found = {key: rounded(value) for key, value in measured.items()}
        bad = {"count": sums["bad"], "same": sums["same_bad"], "first": sums["first_bad"]}
        found.update(
            name=self.name,
            reference=self.other,
            dtype=sums["dtype"],
            shape=sums["shape"],
            elements=sums["count"],
            max_abs_at=sums["max_abs_at"],
            rel_at=sums["rel_at"],
            nonfinite=bad if sums["bad"] or sums["same_bad"] else None,
            limits=limits,
            problems=problems,
            agrees=not problems,
        )
        return found

    def _problems(self, measured, limits):
        sums = self.sums
        if sums["shapes"] and limits:
            yield "its shape is %(found)s, the reference's %(expected)s" % sums["shapes"]
        if sums["bad"]:
            place = sums["first_bad"]
            yield (
                "NaN or infinite where the other is not, %d times: first %s for %s at %s of %s"
                % (
                    sums["bad"],
                    place["found"],
                    place["expected"],
                    place["index"],
                    place["item"],
                )
            )
        for key in AT_MOST:
            if key in limits and measured[key] is not None and measured[key] > limits[key]:
                yield "%s %.3g, allowed %g" % (key, measured[key], limits[key])
        for key in AT_LEAST:
            if key in limits and measured[key] is not None and measured[key] < limits[key]:
                yield "%s %.6g, wanted %g" % (key, measured[key], limits[key])


class Comparison(object):
    """All outputs of two runs; remembers the batch that is worst, for a bisection to look at."""

    def __init__(self, outputs, notes):
        self.outputs, self.notes = outputs, notes
        self.worst, self.inputs = None, None
        self.items = 0

    @classmethod
    def start(cls, found, expected, kind):
        pairs, notes = pair(found, expected)
        return cls([Output(name, other, kind) for name, other in pairs], notes)

    @classmethod
    def resume(cls, state):
        outputs = [Output(**entry) for entry in state["outputs"]]
        comparison = cls(outputs, state["notes"])
        comparison.worst, comparison.items = state["worst"], state["items"]
        return comparison

    def state(self):
        return {
            "outputs": [vars(output) for output in self.outputs],
            "notes": self.notes,
            "worst": self.worst,
            "items": self.items,
        }

    def check(self, tolerance):
        """JobError for a limit of an output that is not there."""
        names = [output.name for output in self.outputs]
        for name in tolerance["asked"]:
            if name and name not in names:
                raise JobError(
                    "outputs",
                    "--tolerance: there is no output `%s` to compare; there is %s"
                    % (name, listed(names)),
                )

    def add(self, batch, found, expected, tolerance):
        """`inputs` is set anew where this batch is worse than all before."""
        self.items += len(batch.items)
        score = 0.0
        for output in self.outputs:
            rel = output.add(batch, found[output.name], expected[output.other])
            limit = output.limits(tolerance).get("rel") or NOISE
            score = max(score, rel / limit)
        if self.worst is None or score > self.worst["score"]:
            self.worst = {"score": score, "batch": batch.number, "title": batch.title}
            self.inputs = batch.arrays

    def summary(self, tolerance):
        notes = list(self.notes)
        for output in self.outputs:
            if output.sums["shapes"] and not output.limits(tolerance):
                text = "`%s` is %s, and %s in the reference: no limit is asked of it"
                shapes = output.sums["shapes"]
                notes.append(text % (output.name, shapes["found"], shapes["expected"]))
            if output.sums["reshaped"]:
                notes.append("`%s` has another shape than the reference's" % output.name)
            if output.sums["same_bad"]:
                text = "`%s` is NaN or infinite in the reference too, %d times"
                notes.append(text % (output.name, output.sums["same_bad"]))
        outputs = [output.summary(tolerance) for output in self.outputs]
        for entry, problem in unjudged(outputs, tolerance["asked"]):
            entry["problems"].append(problem)
            entry["agrees"] = False
        notes += [
            "`%s` is empty in both: nothing of it was compared" % entry["name"]
            for entry in outputs
            if not entry["elements"] and entry["agrees"]
        ]
        bad = [entry for entry in outputs if entry["nonfinite"] and entry["nonfinite"]["first"]]
        earliest = min(bad, key=lambda e: e["nonfinite"]["first"]["batch"]) if bad else None
        return {
            "outputs": outputs,
            "notes": notes,
            "items": self.items,
            "batches": max(output.sums["batches"] for output in self.outputs),
            "worst": self.worst and self.worst["title"],
            "first_nonfinite": earliest
            and dict(earliest["nonfinite"]["first"], output=earliest["name"]),
            "agrees": all(entry["agrees"] for entry in outputs),
        }


def unjudged(outputs, asked):
    """(output, problem) where there is nothing to judge: no elements at all, or none of a measure."""
    if all(entry["mean_abs"] is None for entry in outputs):
        for entry in outputs:
            if entry["agrees"]:
                yield entry, "nothing finite was compared"
        return
    for name, limits in asked.items():
        own = [entry for entry in outputs if name in ("", entry["name"]) and entry["elements"]]
        for key in ("top1", "cosine"):
            if limits.get(key) is not None and all(entry[key] is None for entry in own):
                for entry in own:
                    yield entry, "%s is asked for, and it has none" % key


def first(mask):
    import numpy as np

    return tuple(int(i) for i in np.unravel_index(int(mask.argmax()), mask.shape))


def show(value):
    """JSON has no NaN and no infinity."""
    value = float(value)
    return float("%.6g" % value) if math.isfinite(value) else str(value)


def rounded(value):
    return None if value is None or not math.isfinite(value) else float("%.6g" % value)
