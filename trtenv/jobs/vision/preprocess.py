"""From an image to a network's input: resize, crop or pad, colours, numbers; and the way back.

Placement ties the two together: a point (x, y) of the original image lies in the network's input at
(x * scale_x + left, y * scale_y + top). Pixels are areas, so coordinates are of their edges.
"""

from typing import NamedTuple, Tuple

from worker import JobError

from vision import images


class Placement(NamedTuple):
    """original, frame: (height, width) in pixels; content: (top, left, bottom, right) of the resized
    image in the frame, which may cut it off."""

    original: Tuple[int, int]
    frame: Tuple[int, int]
    scale_y: float
    scale_x: float
    top: int
    left: int
    content: Tuple[int, int, int, int]


DEFAULTS = {
    "resize": None,
    "size": None,
    "crop": None,
    "interpolation": "bilinear",
    "colour": None,
    "scale": 1 / 255.0,
    "mean": None,
    "std": None,
    "pad": 114,
    "multiple": 1,
    "layout": None,
}
RESIZE = {"classification": "shorter", "detection": "letterbox", "segmentation": "stretch"}
COLOURS = {"rgb": 3, "bgr": 3, "grey": 1}
FLOATS = ("float32", "float16", "float64")
INTEGERS = ("int8", "int16", "int32", "int64")
LARGEST = 1 << 26  # pixels of a resized image before its crop, for images as thin as a line


def refused(message, hint=None):
    return JobError("preprocess", message, hint)


class Preprocessor(object):
    """Reads a card's `preprocess` for one input; JobError where the two do not go together."""

    def __init__(self, kind, card, tensor, size=None):
        known = {key: value for key, value in (card or {}).items() if value is not None}
        self.card = dict(DEFAULTS, **known)
        self.resize = self.card["resize"] or RESIZE[kind]
        self.interpolation = self.card["interpolation"]
        self.tensor = tensor
        self.batched = len(tensor.shape) == 4
        self.last, self.channels = _channels(tensor, self.card)
        self.colour = self.card["colour"] or ("grey" if self.channels == 1 else "rgb")
        if self.channels < COLOURS[self.colour]:
            raise refused("`%s` has one channel, which cannot be %s" % (tensor.name, self.colour))
        self.numbers = Numbers(self.card, tensor, self.channels)
        open_sides = [low != high for low, high in (self._limits(0), self._limits(1))]
        self.by_image = size == "image"
        if self.by_image and not any(open_sides):
            raise JobError(
                "shape",
                "input `%s` has one size for all images" % tensor.name,
                "leave out --size image; or make the model for a range: --shapes",
            )
        if self.by_image and self.resize == "shorter":
            self.resize = "stretch"
        size = None if size == "image" else size
        self.fixed = None if self.by_image else self._fixed_frame(size)

    def _limits(self, axis):
        """(smallest, largest) height (axis 0) or width (axis 1) that the input takes; None: no limit."""
        index = axis + (0 if self.last else 1) + (1 if self.batched else 0)
        size = self.tensor.shape[index]
        if size is not None and size >= 0:
            return size, size
        low, high = self.tensor.minimum, self.tensor.maximum
        return (low[index] if low else 1), (high[index] if high else None)

    def _fixed_frame(self, size):
        """(height, width) of the input for all images."""
        index = (0 if self.last else 1) + (1 if self.batched else 0)
        optimum = self.tensor.optimum[index : index + 2] if self.tensor.optimum else None
        own = self.card["size"]
        own = [own, own] if isinstance(own, int) else own
        # What an image is resized to before its crop is not what the network sees.
        likely = (optimum or own) if self.resize == "shorter" else (own or optimum)
        wanted = size or self.card["crop"] or likely
        frame = []
        for axis in (0, 1):
            low, high = self._limits(axis)
            side = low if low == high else (wanted or (None, None))[axis]
            if side is None:
                raise refused(
                    "the size of input `%s` is open and nothing says which to use"
                    % self.tensor.name,
                    "--size HEIGHTxWIDTH, or --size image for that of each image",
                )
            exact = size or self.card["crop"]
            if (exact and side != wanted[axis]) or side < low or (high and side > high):
                raise refused(
                    "images of %dx%d (height x width) are asked for, but input `%s` takes %s"
                    % (wanted[0], wanted[1], self.tensor.name, self._told()),
                    "choose a size within that range",
                )
            frame.append(int(side))
        if frame[0] * frame[1] > LARGEST:
            raise refused(
                "an input of %dx%d is asked for: that is more than %d million pixels"
                % (frame[0], frame[1], LARGEST // 10**6)
            )
        multiple = self.card["multiple"]
        if frame[0] % multiple or frame[1] % multiple:
            raise refused(
                "an input of %dx%d is asked for, but height and width of this network are multiples"
                " of %d" % (frame[0], frame[1], multiple)
            )
        return tuple(frame)

    def _told(self):
        sides = []
        for axis in (0, 1):
            low, high = self._limits(axis)
            sides.append(str(low) if low == high else "%s..%s" % (low, high or "any"))
        return "%s x %s" % tuple(sides)

    def frame(self, shape):
        """(height, width) of the input for an image of this (height, width)."""
        if self.fixed:
            return self.fixed
        return self._own_frame(shape)

    def _own_frame(self, shape):
        """The image's size rounded up to `multiple`; shrunk as a whole where the profile ends."""
        multiple = self.card["multiple"]
        limits = [self._limits(axis) for axis in (0, 1)]
        gain = min([1.0] + [high / side for side, (_, high) in zip(shape, limits) if high])
        frame = []
        for side, (low, high) in zip(shape, limits):
            up = -(-max(1, round(side * gain)) // multiple) * multiple
            if high and up > high:
                up = high // multiple * multiple
            least = -(-max(low, 1) // multiple) * multiple
            if high and least > high:
                raise refused(
                    "no multiple of %d lies in what input `%s` takes: %s"
                    % (multiple, self.tensor.name, self._told())
                )
            frame.append(max(up, least))
        return tuple(frame)

    def prepare(self, image, out):
        """Fills `out` (CHW, or HWC for such inputs) from an image; returns its Placement."""
        frame = tuple(out.shape[:2] if self.last else out.shape[1:])
        pixels, content, scale = self._resized(image, frame)
        if self.colour == "grey":
            pixels = images.grey(pixels)[:, :, None]
        top, left, bottom, right = content
        shown = (max(top, 0), max(left, 0), min(bottom, frame[0]), min(right, frame[1]))
        pixels = pixels[shown[0] - top : shown[2] - top, shown[1] - left : shown[3] - left]
        pad = 0 if self.resize == "shorter" else self.card["pad"]
        for channel in range(self.channels):
            plane = out[:, :, channel] if self.last else out[channel]
            source = 2 - channel if self.colour == "bgr" else channel
            source = min(source, pixels.shape[2] - 1)
            inside = plane[shown[0] : shown[2], shown[1] : shown[3]]
            self.numbers.write(pixels[:, :, source], inside, channel)
            if inside.shape != plane.shape:
                value = self.numbers.of(pad, channel)
                plane[: shown[0]] = value
                plane[shown[2] :] = value
                plane[shown[0] : shown[2], : shown[1]] = value
                plane[shown[0] : shown[2], shown[3] :] = value
        return Placement(tuple(image.shape[:2]), frame, scale[0], scale[1], top, left, content)

    def _resized(self, image, frame):
        """The resized image, its (top, left, bottom, right) in the frame, its (y, x) scale."""
        height, width = image.shape[:2]
        if self.resize == "none":
            size = (height, width)
        elif self.resize == "stretch":
            size = frame
        elif self.resize == "letterbox":
            size = self._letterboxed(height, width, frame)
        else:
            size = self._covering(height, width, frame)
        if self.resize == "letterbox":
            pixels = images.resize_plain(image, size, self.interpolation)
            # As Ultralytics' LetterBox: of an odd pixel of padding more lies below and right.
            top = round((frame[0] - size[0]) / 2.0 - 0.1)
            left = round((frame[1] - size[1]) / 2.0 - 0.1)
        else:
            pixels = images.resize(image, size, self.interpolation)
            # As torchvision's center_crop: Python's rounding of halves; where it pads, it rounds down.
            top, left = [
                (side - own) // 2 if own < side else -round((own - side) / 2.0)
                for side, own in zip(frame, size)
            ]
        scale = (size[0] / float(height), size[1] / float(width))
        return pixels, (top, left, top + size[0], left + size[1]), scale

    def _letterboxed(self, height, width, frame):
        gain = min(frame[0] / float(height), frame[1] / float(width))
        if self.by_image:
            gain = min(gain, 1.0)  # the frame is the image's own, rounded up: nothing is enlarged
        return max(round(height * gain), 1), max(round(width * gain), 1)

    def _covering(self, height, width, frame):
        """As torchvision's resize to a shorter side, which truncates the longer one."""
        size = self.card["size"]
        if isinstance(size, (list, tuple)):
            return int(size[0]), int(size[1])
        short, long = min(height, width), max(height, width)
        shorter = size
        if size is None:  # just enough to cover the frame
            gain = max(frame[0] / float(height), frame[1] / float(width))
            if frame[0] != frame[1]:
                return tuple(
                    max(side, round(own * gain)) for side, own in zip(frame, (height, width))
                )
            shorter = frame[0]
        longer = int(shorter * long / short)
        if shorter * longer > LARGEST:
            raise images.BadImage(
                None,
                "%dx%d is too thin to be resized to a shorter side of %d"
                % (height, width, shorter),
            )
        return (shorter, longer) if height <= width else (longer, shorter)


class Numbers(object):
    """Pixels to what the network takes: (pixel * scale - mean) / std, channel by channel.

    Floating-point inputs get that; uint8 inputs get the pixels as they are, whatever the card says,
    as such networks hold the arithmetic themselves; other integers get it rounded and cut to their
    range, which needs a scale of the card's own.
    """

    def __init__(self, card, tensor, channels):
        import numpy as np

        if tensor.dtype not in FLOATS + INTEGERS + ("uint8",):
            raise refused(
                "images cannot be turned into %s (input `%s`)" % (tensor.dtype, tensor.name)
            )
        self.dtype = np.dtype(tensor.dtype)
        self.raw = tensor.dtype == "uint8"
        plain = abs(card["scale"] * 255 - 1) < 1e-6
        means, stds = (_each(card[key], key, channels) for key in ("mean", "std"))
        if tensor.dtype in INTEGERS and plain and stds is None:
            raise refused(
                "input `%s` is %s: pixels divided by 255 would all be 0 or 1 there"
                % (tensor.name, tensor.dtype),
                'say how pixels become integers, such as {"scale": 1, "mean": [128]}',
            )
        # Dividing by 255 is what torchvision does; a product with 1/255 differs in the last bit.
        self.divisor = np.float32(255) if plain else None
        self.factor = np.float32(card["scale"])
        self.means = None if means is None else [np.float32(value) for value in means]
        self.stds = None if stds is None else [np.float32(value) for value in stds]

    def write(self, pixels, out, channel):
        """pixels HxW uint8 into out HxW. In place, without temporaries where `out` is float32: other
        threads run meanwhile."""
        import numpy as np

        if self.raw:
            out[...] = pixels
            return
        direct = out.dtype == np.float32
        values = out if direct else np.empty(pixels.shape, np.float32)
        values[...] = pixels
        if self.divisor is not None:
            np.true_divide(values, self.divisor, out=values)
        elif self.factor != 1:
            np.multiply(values, self.factor, out=values)
        if self.means:
            np.subtract(values, self.means[channel], out=values)
        if self.stds:
            np.true_divide(values, self.stds[channel], out=values)
        if not direct:
            if self.dtype.kind == "i":
                limits = np.iinfo(self.dtype)
                np.rint(values, out=values)
                np.clip(values, limits.min, limits.max, out=values)
            out[...] = values

    def of(self, level, channel):
        """What a grey level becomes."""
        import numpy as np

        value = np.zeros((1, 1), self.dtype)
        self.write(np.full((1, 1), level, np.uint8), value, channel)
        return value[0, 0]


def _channels(tensor, card):
    """(whether channels are last, how many there are)."""
    shape = [-1 if side is None else side for side in tensor.shape]
    if len(shape) not in (3, 4):
        raise refused(
            "input `%s` has %d dimensions: an image input has batch, channels, height and width"
            % (tensor.name, len(shape))
        )
    first, last = shape[-3], shape[-1]
    layout = card["layout"]
    if layout is None:
        layout = "nhwc" if first not in (1, 3) and last in (1, 3) else "nchw"
    channels = last if layout == "nhwc" else first
    if channels == -1 and card["colour"]:
        channels = COLOURS[card["colour"]]
    if channels not in (1, 3):
        raise refused(
            "input `%s` has %s channels (%s, shape %s): images have 1 or 3"
            % (tensor.name, "any number of" if channels == -1 else channels, layout, shape),
            "set `layout` and `colour` of the task card's preprocess",
        )
    return layout == "nhwc", channels


def _each(values, key, channels):
    if values is None:
        return None
    if not isinstance(values, (list, tuple)):
        values = [values]
    if len(values) == 1:
        values = list(values) * channels
    if len(values) != channels:
        raise refused(
            "`%s` has %d numbers, but the input has %d channels" % (key, len(values), channels)
        )
    return list(values)
