// Runs the kernels of minitxl/backend/kernels.cu on the CPU, for tests on machines without a GPU.
//
// The threads of a block are fibers. A warp runs alone from one __syncthreads to the next, its
// threads in turn from one shuffle to the next, all in the order that the test asks for: so a
// barrier that is missing shows as a wrong number in one order or the other. Blocks run one after
// the other. What CUDA leaves undefined is an error here: threads that wait at different barriers,
// or that end while others wait.
#include <cmath>
#include <csetjmp>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // one for all threads of a block, as blocks do not overlap

using std::exp;
using std::log;
using std::sqrt;

struct Index {
  unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {

enum State { RUNNING, AT_SYNC, AT_SHUFFLE_WRITTEN, AT_SHUFFLE_READ, ENDED };
constexpr size_t STACK = 1 << 15;
constexpr unsigned MAX_THREADS = 1024;

static ucontext_t beginnings[MAX_THREADS];
static jmp_buf scheduler, fibers[MAX_THREADS];  // swapcontext would ask the system at every switch
static bool begun[MAX_THREADS];
static State states[MAX_THREADS];
static char slots[MAX_THREADS][8];
static const std::function<void()>* body;

static void wait(State state) {
  unsigned t = threadIdx.x;
  states[t] = state;
  if (!_setjmp(fibers[t])) _longjmp(scheduler, 1);
}

static void resume() {
  if (_setjmp(scheduler)) return;
  unsigned t = threadIdx.x;
  if (begun[t]) _longjmp(fibers[t], 1);
  begun[t] = true;
  setcontext(&beginnings[t]);
}

// A fiber does one thread after another: that of the next block, that of the next launch.
static void entry() {
  while (true) {
    (*body)();
    wait(ENDED);
  }
}

static void make_fiber(unsigned t) {
  static std::vector<char> stacks(MAX_THREADS * STACK);
  getcontext(&beginnings[t]);
  beginnings[t].uc_stack.ss_sp = stacks.data() + t * STACK;
  beginnings[t].uc_stack.ss_size = STACK;
  beginnings[t].uc_link = nullptr;
  makecontext(&beginnings[t], entry, 0);
}

// Let a warp run to its next __syncthreads or its end; return 1 if its threads part.
static int run_warp(unsigned first, bool backwards) {
  do {
    for (unsigned lane = 0; lane < 32; lane++) {
      threadIdx.x = first + (backwards ? 31 - lane : lane);
      resume();
    }
    for (unsigned lane = 1; lane < 32; lane++)
      if (states[first + lane] != states[first]) return 1;
  } while (states[first] != AT_SYNC && states[first] != ENDED);
  return 0;
}

static int run_block(unsigned threads, bool backwards) {
  for (unsigned t = 0; t < threads; t++) {
    if (!begun[t]) make_fiber(t);
    states[t] = RUNNING;
  }
  do {
    for (unsigned n = 0; n < threads; n += 32)
      if (run_warp(backwards ? threads - 32 - n : n, backwards)) return 1;
    for (unsigned t = 32; t < threads; t += 32)
      if (states[t] != states[0]) return 1;
  } while (states[0] != ENDED);
  return 0;
}

static int launch(const unsigned* grid, unsigned threads, int backwards,
                  const std::function<void()>& kernel) {
  if (threads % 32 || threads > MAX_THREADS) return 2;
  body = &kernel;
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {threads, 1, 1};
  for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++)
        if (int error = run_block(threads, backwards)) {
          std::memset(begun, 0, sizeof(begun));  // fibers that wait in the middle are left there
          return error;
        }
  return 0;
}

}  // namespace host

inline void __syncthreads() { host::wait(host::AT_SYNC); }

template <typename T>
T __shfl_xor_sync(unsigned, T x, int lane_mask) {
  unsigned t = threadIdx.x;
  std::memcpy(host::slots[t], &x, sizeof(T));
  host::wait(host::AT_SHUFFLE_WRITTEN);
  std::memcpy(&x, host::slots[t ^ lane_mask], sizeof(T));
  host::wait(host::AT_SHUFFLE_READ);
  return x;
}
