/* Stands in for the CUDA driver's library, which only machines with a GPU have: what trtenv calls of it,
   itself and through PyCUDA.

   Device memory is memory of the host, streams are done at once, a graph is the list of the copies and
   launches that were captured. It is stricter than a GPU: addresses that are not allocated, a thread
   without a context and calls that a capture forbids are errors, and every call is counted.
   Build: gcc -shared -fPIC -pthread -o libcuda.so.1 libcuda.c */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901
};
enum { BLOCKS = 4096, NAMES = 64, STEPS = 256 };

typedef void (*work_t)(void *);
typedef struct { int kind; void *target; const void *source; size_t size; work_t work; } step_t;
typedef struct { int count; step_t steps[STEPS]; } graph_t;
typedef struct { graph_t *capture; int invalid; } stream_t;
typedef struct { struct timespec at; } event_t;

static struct { char *start; size_t size; int device; } blocks[BLOCKS];
static struct { const char *name; long count; } counts[NAMES];
static size_t room = (size_t)1 << 30, used = 0;
static long objects = 0;
static int failing = 0;             /* what the next synchronisation reports */
static __thread void *current = 0;
static int context;

#define COUNT() count(__func__)
#define NEEDS_CONTEXT() do { COUNT(); if (!current) return INVALID_CONTEXT; } while (0)

static void count(const char *name) {
    int i = 0;
    while (i < NAMES - 1 && counts[i].name && strcmp(counts[i].name, name)) i++;
    counts[i].name = name;
    counts[i].count++;
}

/* For tests. */
long standin_count(const char *name) {
    for (int i = 0; i < NAMES && counts[i].name; i++)
        if (!strcmp(counts[i].name, name)) return counts[i].count;
    return 0;
}

long standin_total(void) {
    long total = 0;
    for (int i = 0; i < NAMES; i++) total += counts[i].count;
    return total;
}

long standin_alive(void) {
    long alive = objects;
    for (int i = 0; i < BLOCKS; i++) alive += blocks[i].start != 0;
    return alive;
}

void standin_room(size_t size) { room = size; }
void standin_fail(int status) { failing = status; }
int standin_capturing(stream_t *stream) { return stream->capture != 0; }

/* 1: on the device, 2: pinned, 0: neither or not as long. */
int standin_holds(uint64_t address, size_t size) {
    for (int i = 0; i < BLOCKS; i++) {
        uint64_t start = (uint64_t)blocks[i].start;
        if (start && address >= start && address + size <= start + blocks[i].size)
            return blocks[i].device ? 1 : 2;
    }
    return 0;
}

static void perform(step_t *step) {
    if (step->work) step->work(step->target);
    else memcpy(step->target, step->source, step->size);
}

static int start(stream_t *stream, step_t step) {
    if (stream && stream->capture) {
        if (stream->capture->count == STEPS) return INVALID_VALUE;
        stream->capture->steps[stream->capture->count++] = step;
    } else perform(&step);
    return SUCCESS;
}

/* What an engine does on a stream. */
int standin_launch(stream_t *stream, work_t work, void *argument) {
    step_t step = {1, argument, 0, 0, work};
    return start(stream, step);
}

int cuInit(unsigned flags) { COUNT(); return flags ? INVALID_VALUE : SUCCESS; }
int cuDriverGetVersion(int *version) { COUNT(); *version = 12080; return SUCCESS; }
int cuDeviceGetCount(int *found) { COUNT(); *found = 1; return SUCCESS; }

int cuDeviceGet(int *device, int index) {
    COUNT();
    if (index) return INVALID_DEVICE;
    *device = 0;
    return SUCCESS;
}

int cuDeviceGetName(char *text, int size, int device) {
    COUNT();
    snprintf(text, size, "Stand-in %d", device);
    return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    COUNT();
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1;
    return SUCCESS;
}

int cuDeviceComputeCapability(int *major, int *minor, int device) {
    COUNT();
    *major = 9;
    *minor = 0;
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *size, int device) { COUNT(); *size = room; return SUCCESS; }

int cuDevicePrimaryCtxRetain(void **made, int device) {
    COUNT();
    objects++;
    *made = &context;
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease(int device) { COUNT(); objects--; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { return cuDevicePrimaryCtxRelease(device); }
int cuCtxSetCurrent(void *wanted) { COUNT(); current = wanted; return SUCCESS; }
int cuCtxGetCurrent(void **found) { COUNT(); *found = current; return SUCCESS; }
int cuCtxGetDevice(int *device) { NEEDS_CONTEXT(); *device = 0; return SUCCESS; }
int cuCtxPushCurrent_v2(void *wanted) { COUNT(); current = wanted; return SUCCESS; }
int cuCtxPopCurrent_v2(void **found) { NEEDS_CONTEXT(); if (found) *found = current; return SUCCESS; }

int cuGetErrorString(int status, const char **text) {
    *text = status == OUT_OF_MEMORY ? "out of memory"
        : status == ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
        : status == CAPTURE_INVALIDATED ? "operation failed due to a previous error during capture"
        : status == INVALID_CONTEXT ? "invalid device context" : "some error";
    return SUCCESS;
}

int cuGetErrorName(int status, const char **text) { return cuGetErrorString(status, text); }

static int allocate(char **made, size_t size, int device) {
    NEEDS_CONTEXT();
    if (!size) return INVALID_VALUE;
    if (device && used + size > room) return OUT_OF_MEMORY;
    for (int i = 0; i < BLOCKS; i++)
        if (!blocks[i].start) {
            if (posix_memalign((void **)&blocks[i].start, 512, size)) return OUT_OF_MEMORY;
            memset(blocks[i].start, 0xAB, size);
            blocks[i].size = size;
            blocks[i].device = device;
            used += device ? size : 0;
            *made = blocks[i].start;
            return SUCCESS;
        }
    return OUT_OF_MEMORY;
}

static int release(char *start, int device) {
    NEEDS_CONTEXT();
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].start == start && blocks[i].device == device) {
            memset(start, 0xCD, blocks[i].size);
            free(start);
            used -= device ? blocks[i].size : 0;
            blocks[i].start = 0;
            return SUCCESS;
        }
    return INVALID_VALUE;
}

int cuMemAlloc_v2(uint64_t *made, size_t size) { COUNT(); return allocate((char **)made, size, 1); }
int cuMemFree_v2(uint64_t address) { COUNT(); return release((char *)address, 1); }

int cuMemHostAlloc(void **made, size_t size, unsigned flags) {
    COUNT();
    return allocate((char **)made, size, 0);
}

int cuMemFreeHost(void *address) { COUNT(); return release(address, 0); }

static int copy(void *target, const void *source, size_t size, uint64_t address, stream_t *stream) {
    step_t step = {0, target, source, size, 0};
    if (!current) return INVALID_CONTEXT;
    if (standin_holds(address, size) != 1) return ILLEGAL_ADDRESS;
    return start(stream, step);
}

int cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size) {
    COUNT();
    return copy((void *)target, source, size, target, 0);
}

int cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size) {
    COUNT();
    return copy(target, (void *)source, size, source, 0);
}

int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size, stream_t *stream) {
    COUNT();
    if (!standin_holds((uint64_t)source, size)) return INVALID_VALUE;  /* it would not be asynchronous */
    return copy((void *)target, source, size, target, stream);
}

int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t size, stream_t *stream) {
    COUNT();
    if (!standin_holds((uint64_t)target, size)) return INVALID_VALUE;
    return copy(target, (void *)source, size, source, stream);
}

int cuStreamCreate(stream_t **made, unsigned flags) {
    NEEDS_CONTEXT();
    if (flags != 1) return INVALID_VALUE;  /* a blocking stream would wait for the default one */
    *made = calloc(1, sizeof **made);
    objects++;
    return SUCCESS;
}

int cuStreamDestroy_v2(stream_t *stream) { NEEDS_CONTEXT(); free(stream); objects--; return SUCCESS; }

int cuStreamSynchronize(stream_t *stream) {
    COUNT();
    if (stream->capture) { stream->invalid = 1; return CAPTURE_UNSUPPORTED; }
    int status = failing;
    failing = 0;
    return status;
}

int cuStreamBeginCapture_v2(stream_t *stream, int mode) {
    COUNT();
    if (stream->capture) return INVALID_VALUE;
    stream->capture = calloc(1, sizeof *stream->capture);
    stream->invalid = 0;
    return SUCCESS;
}

int cuStreamEndCapture(stream_t *stream, graph_t **made) {
    COUNT();
    graph_t *capture = stream->capture;
    if (!capture) return INVALID_HANDLE;
    stream->capture = 0;
    *made = 0;
    if (stream->invalid) { free(capture); return CAPTURE_INVALIDATED; }
    *made = capture;
    objects++;
    return SUCCESS;
}

int cuGraphInstantiateWithFlags(graph_t **made, graph_t *graph, unsigned long long flags) {
    COUNT();
    *made = malloc(sizeof **made);
    memcpy(*made, graph, sizeof *graph);
    objects++;
    return SUCCESS;
}

int cuGraphDestroy(graph_t *graph) { COUNT(); free(graph); objects--; return SUCCESS; }
int cuGraphExecDestroy(graph_t *graph) { COUNT(); free(graph); objects--; return SUCCESS; }

int cuGraphLaunch(graph_t *graph, stream_t *stream) {
    COUNT();
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    for (int i = 0; i < graph->count; i++) perform(&graph->steps[i]);
    return SUCCESS;
}

int cuEventCreate(event_t **made, unsigned flags) {
    NEEDS_CONTEXT();
    *made = calloc(1, sizeof **made);
    objects++;
    return SUCCESS;
}

int cuEventRecord(event_t *event, stream_t *stream) {
    COUNT();
    clock_gettime(CLOCK_MONOTONIC, &event->at);
    return SUCCESS;
}

int cuEventSynchronize(event_t *event) { COUNT(); return SUCCESS; }

int cuEventElapsedTime(float *found, event_t *from, event_t *to) {
    COUNT();
    *found = (to->at.tv_sec - from->at.tv_sec) * 1e3 + (to->at.tv_nsec - from->at.tv_nsec) / 1e6;
    return SUCCESS;
}

int cuEventDestroy_v2(event_t *event) { NEEDS_CONTEXT(); free(event); objects--; return SUCCESS; }
