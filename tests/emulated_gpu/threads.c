/* The threads of a block, and the door to cuBLAS.
 *
 * Threads run one after the other. Where a kernel has barriers each is a fibre of its own that is left
 * at a barrier; they are made once and used again, and switched by setjmp, which asks no kernel. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
#include <ucontext.h>

typedef struct { unsigned x, y, z; } three;
three threadIdx, blockIdx, blockDim, gridDim;

typedef struct { jmp_buf at; ucontext_t start; int started, done; } fibre;
enum { MOST = 1024, STACK = 65536 };
static fibre fibres[MOST];
static int running;
static jmp_buf scheduler;
static void (*work)(void **);
static void **given;

/* The memory of a block, and who touched which byte of it since which barrier. */
typedef struct { int writer, written, reader, read; } trace;
enum { NOBODY = -1, MANY = -2 };
char *emulated_shared, emulated_complaint[200];
static trace *traces;
static size_t bytes, capacity;
static int interval;

static void complain(const char *what, long at, int other) {
  if (!*emulated_complaint)
    sprintf(emulated_complaint, "%s at byte %ld of a block's memory: thread %d, and %d since the same barrier", what,
            at, running, other);
}

void emulated_touch(char *at, int writes) {
  long i = at - emulated_shared;
  if (i < 0 || i >= (long)bytes) {
    complain("an entry that is not there", i, NOBODY);
    return;
  }
  trace *t = &traces[i];
  if (t->written == interval && t->writer != running) complain("a race", i, t->writer);
  if (writes && t->read == interval && t->reader != running) complain("a race", i, t->reader);
  if (writes) {
    t->writer = running, t->written = interval;
  } else {
    t->reader = t->read == interval && t->reader != running ? MANY : running, t->read = interval;
  }
}

static void share(size_t size) {
  if (size > capacity) {
    emulated_shared = realloc(emulated_shared, capacity = size);
    traces = realloc(traces, size * sizeof(trace));
  }
  bytes = size;
  memset(emulated_shared, 0xFF, bytes); /* NaN */
  memset(traces, 0xFF, bytes * sizeof(trace));
  interval = 0;
}

void emulated_syncthreads(void) {
  if (!_setjmp(fibres[running].at)) _longjmp(scheduler, 1);
}

static void forever(void) {
  for (;;) {
    work(given);
    fibres[running].done = 1;
    emulated_syncthreads();
  }
}

static void resume(int i) {
  fibre *f = &fibres[running = i];
  threadIdx = (three){i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  if (_setjmp(scheduler)) return;
  if (f->started) _longjmp(f->at, 1);
  f->started = 1;
  getcontext(&f->start);
  f->start.uc_stack.ss_sp = malloc(STACK);
  f->start.uc_stack.ss_size = STACK;
  makecontext(&f->start, forever, 0);
  setcontext(&f->start);
}

static void block(int threads, int barriers) {
  if (!barriers) {
    for (int i = 0; i < threads; ++i) {
      running = i;
      threadIdx = (three){i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
      work(given);
    }
    return;
  }
  if (threads > MOST) abort();
  for (int i = 0; i < threads; ++i) fibres[i].done = 0;
  for (int left = threads; left; ++interval)
    for (int i = 0; i < threads; ++i)
      if (!fibres[i].done) {
        resume(i);
        left -= fibres[i].done;
      }
}

void emulated_run(void (*body)(void **), void **arguments, const unsigned *n, int barriers) {
  work = body;
  given = arguments;
  gridDim = (three){n[0], n[1], n[2]};
  blockDim = (three){n[3], n[4], n[5]};
  for (unsigned z = 0; z < n[2]; ++z)
    for (unsigned y = 0; y < n[1]; ++y)
      for (unsigned x = 0; x < n[0]; ++x) {
        blockIdx = (three){x, y, z};
        if (n[6]) share(n[6]);
        block(n[3] * n[4] * n[5], barriers);
      }
}

/* cuBLAS as far as it is called: each function asks the emulated device. */
typedef struct {
  int (*create)(void **), (*destroy)(void *), (*set_stream)(void *, void *);
  int (*set_workspace)(void *, void *, size_t);
  int (*gemm)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,
              const void *, void *, int, int, int, int);
} blas;
blas emulated_blas;

int cublasCreate_v2(void **h) { return emulated_blas.create(h); }
int cublasDestroy_v2(void *h) { return emulated_blas.destroy(h); }
int cublasSetStream_v2(void *h, void *s) { return emulated_blas.set_stream(h, s); }
int cublasSetWorkspace_v2(void *h, void *p, size_t n) { return emulated_blas.set_workspace(h, p, n); }
int cublasGemmEx(void *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at, int lda,
                 const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc, int compute, int how) {
  return emulated_blas.gemm(h, ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, compute, how);
}
const char *cublasGetStatusName(int s) {
  return s == 3 ? "CUBLAS_STATUS_ALLOC_FAILED" : s == 7 ? "CUBLAS_STATUS_INVALID_VALUE"
         : s == 13 ? "CUBLAS_STATUS_EXECUTION_FAILED" : s == 15 ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_OTHER";
}
