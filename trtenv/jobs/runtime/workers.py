"""What each core does with images: decode and preprocess, draw and write. Python 3.6 to 3.13.

A worker is a thread here, or a thread here with a process of its own. Pillow holds Python's lock for about
a sixth of the time of a photograph, so that threads alone keep five cores busy; from then on there are
processes, which put what they prepare into memory that they share with this one. They are new processes,
not forks: CUDA does not survive a fork. They end when their stdin does.
"""

import contextlib
import ctypes
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor

from worker import JobError

JOBS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
JPEG = (".jpg", ".jpeg")
THREADS_ENOUGH = 4
CLOEXEC = 1
# What a process tells of by name; all else is a fault of ours, with its trace.
FAILURES = {"MemoryError": MemoryError, "OSError": OSError, "RuntimeError": RuntimeError}
START = "import sys; sys.path[:1] = sys.argv[1:]; from runtime import workers; workers.serve()"
# Of libraries that would start one thread for each core in each process; and of glibc, which else gives
# the memory of each image back to the system: 500 page faults for the next one, a tenth of the time.
SETTINGS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SETTINGS.update(MALLOC_MMAP_THRESHOLD_=str(32 << 20), MALLOC_TRIM_THRESHOLD_=str(256 << 20))


class Worker(object):
    """The task of one thread or process. `rows`: an array of prepared images, or None: one for each."""

    def __init__(self, spec, rows=None):
        from vision import images, tasks

        images.need_library()
        self._labels = spec["card"].get("labels")
        self._dtype = spec["dtype"]
        self._task = tasks.make_task(
            spec["card"], spec["tensor"], spec["outputs"], spec["options"], spec["size"]
        )
        self._rows = rows

    def prepare(self, paths, cells):
        """[(error, size, placement, array)], one for each path; the array is None where rows has it."""
        return [self._prepare(path, cell) for path, cell in zip(paths, cells)]

    def _prepare(self, path, cell):
        import numpy as np
        from vision import images

        try:
            image = images.decode(path)
            array = None
            if self._rows is None:
                array = np.empty(self._task.shape(1, self._task.frame(image)), self._dtype)
                array = out = self._task.views(array)[0]
            else:
                out = self._rows[cell]
            placement = self._task.prepare(image, out)
        except MemoryError:
            raise
        except images.BadImage as error:
            return error.reason, None, None, None
        except JobError as error:
            return error.message, None, None, None
        except Exception as error:  # one image must not end a run over thousands
            return "%s: %s" % (type(error).__name__, error), None, None, None
        return None, (image.shape[1], image.shape[0]), placement, array

    def draw(self, path, result, target, mask, cell):
        """Write the picture and the mask where they are asked for; returns a thumbnail or None."""
        from vision import draw, images

        if mask is not None:
            save_mask(result.mask, mask)
        if target is None and cell is None:
            return None
        picture = draw.picture(images.decode(path), result, self._labels)
        if target is not None:
            save_picture(picture, target)
        if cell is not None:
            picture.thumbnail(cell)
            return picture
        return None


def save_picture(picture, target):
    if target.lower().endswith(JPEG):
        write_whole(target, lambda handle: picture.convert("RGB").save(handle, "JPEG", quality=90))
    else:
        # Level 1 of zlib: a photograph takes half the time of the default and 14 % more bytes.
        write_whole(target, lambda handle: picture.save(handle, "PNG", compress_level=1))


def save_mask(mask, target):
    """An index map: 8 bits where the classes fit, else 16."""
    import numpy as np
    from PIL import Image

    small = not mask.size or mask.max() < 256
    array = np.ascontiguousarray(mask, "uint8" if small else "uint16")
    write_whole(target, lambda handle: Image.fromarray(array).save(handle, "PNG"))


def write_whole(target, write):
    """A file appears whole or not at all; write(binary file)."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target + ".part", "wb") as handle:
        write(handle)
    os.replace(target + ".part", target)


class SharedMemory(object):
    """Bytes that workers inherit as a file descriptor: no size limit of /dev/shm holds for it."""

    def __init__(self):
        self.fd = self._create()
        self._map = None

    @staticmethod
    def _create():
        if hasattr(os, "memfd_create"):  # Python 3.8
            return os.memfd_create("trtenv")
        libc = ctypes.CDLL(None)
        if hasattr(libc, "memfd_create"):  # glibc 2.27
            fd = libc.memfd_create(b"trtenv", CLOEXEC)
            if fd >= 0:
                return fd
        with tempfile.TemporaryFile() as handle:
            return os.dup(handle.fileno())

    def array(self, shape, dtype):
        """The memory, made as large as this array."""
        os.ftruncate(self.fd, max(size_of(shape, dtype), 1))
        return mapped(self.fd, shape, dtype)

    def close(self):
        os.close(self.fd)


def size_of(shape, dtype):
    import numpy as np

    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def mapped(fd, shape, dtype):
    import numpy as np

    return np.frombuffer(
        mmap.mmap(fd, max(size_of(shape, dtype), 1)), dtype, int(np.prod(shape, dtype=np.int64))
    ).reshape(shape)


class Died(Exception):
    """A worker's process ended, by a signal most often: a decoder crashed, or memory ran out."""


class Process(object):
    """A worker in a process of its own; calls go by pickle, one at a time, after begin()."""

    def __init__(self, fd):
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, JOBS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(fd,),
            env=dict(os.environ, **SETTINGS),
        )

    def begin(self, *layout):
        self._send(layout)

    def _send(self, message):
        try:
            pickle.dump(message, self._process.stdin, 4)
            self._process.stdin.flush()
        except (OSError, ValueError):  # its end is closed, or ours
            raise Died()

    def call(self, name, *arguments):
        self._send((name, arguments))
        try:
            error, answer = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise Died()
        if error is not None:
            raise FAILURES[error](answer)
        return answer

    def close(self):
        with contextlib.suppress(OSError):  # what was not sent any more
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class Crew(object):
    """Processes that are on their way before anybody knows what they will do: their imports take time."""

    def __init__(self, count):
        self.memory = SharedMemory()
        self.idle = queue.Queue()
        try:
            for _ in range(count):
                self.idle.put(self.start())
        except OSError:
            self.close()
            raise

    def start(self):
        return Process(self.memory.fd)

    def close(self):
        while not self.idle.empty():
            self.idle.get().close()
        self.memory.close()


def early_crew(count, io):
    """A Crew, or None where this place has no room for so many processes."""
    try:
        return Crew(count)
    except OSError as error:
        io.log("images are decoded by threads: %s" % error)
        return None


class Pool(object):
    """`count` workers, processes where there is a crew; calls return futures and are begun in order."""

    def __init__(self, spec, count, rows_shape, crew=None):
        import numpy as np

        self.count, self._crew, self.rows = count, crew, None
        if crew is not None:
            self._layout = (spec, crew.memory.fd, rows_shape)
            self.rows = crew.memory.array(rows_shape, spec["dtype"])
            for process in list(crew.idle.queue):
                with contextlib.suppress(Died):  # found out at its first call
                    process.begin(*self._layout)
        elif rows_shape is not None:
            self.rows = np.empty(rows_shape, spec["dtype"])
        self._local = Worker(spec, self.rows)
        self._threads = ThreadPoolExecutor(max_workers=count)

    def prepare(self, paths, cells):
        return self._threads.submit(self._prepare, paths, cells)

    def draw(self, *arguments):
        return self._threads.submit(self._call, "draw", *arguments)

    def _prepare(self, paths, cells):
        try:
            return self._call("prepare", paths, cells)
        except Died:
            if len(paths) == 1:
                return [("the decoder crashed on it", None, None, None)]
            parts = [self._prepare([path], [cell]) for path, cell in zip(paths, cells)]
            return [part[0] for part in parts]

    def _call(self, name, *arguments):
        if self._crew is None:
            return getattr(self._local, name)(*arguments)
        process = self._crew.idle.get()
        try:
            return process.call(name, *arguments)
        except Died:
            process.close()
            process = self._crew.start()
            process.begin(*self._layout)
            raise
        finally:
            self._crew.idle.put(process)

    def close(self):
        """Waits for what was begun."""
        self._threads.shutdown()


def serve():
    """What a worker's process does until its stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; the job decides
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print as they please
    from vision import draw, images, tasks  # noqa: F401  what takes time, while the model loads

    worker = None
    try:
        spec, fd, shape = pickle.load(requests)
        while True:
            name, arguments = pickle.load(requests)
            error = answer = None
            try:
                worker = worker or Worker(spec, mapped(fd, shape, spec["dtype"]))
                answer = getattr(worker, name)(*arguments)
            except (MemoryError, OSError) as raised:
                error = "OSError" if isinstance(raised, OSError) else "MemoryError"
                answer = str(raised)
            except Exception:
                error, answer = "RuntimeError", traceback.format_exc()
            pickle.dump((error, answer), answers, 4)
            answers.flush()
    except (EOFError, OSError):
        os._exit(0)  # the job is gone, or needs no more
