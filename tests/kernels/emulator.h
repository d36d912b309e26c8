// Enough of CUDA to run the kernels of this project on the CPU, compiled with g++ in front of a `.cu` file.
//
// Each thread of a block is a fiber with a stack of its own. All take turns, one step each: a step ends where a
// kernel meets its neighbours (a shuffle, a barrier), so no fiber goes on before all others came as far. Warps
// therefore must meet equally often before a barrier of the whole block; the kernels here do.
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // one block runs at a time

struct Index { unsigned int x, y, z; };
struct alignas(8) uint2 { unsigned int x, y; };
struct alignas(16) uint4 { unsigned int x, y, z, w; };
static Index threadIdx, blockIdx, blockDim;

struct Fiber {
    ucontext_t context;
    jmp_buf place;
    std::vector<char> stack;
    bool begun, done;
};
static std::vector<Fiber> fibers;
static jmp_buf scheduler;
static std::vector<double> slots;  // what each thread shows its neighbours
static void (*body)(void**);
static void** arguments;

// Contexts make the stacks; jumps between them spare the system calls that switching contexts takes.
static void meet() {
    if (_setjmp(fibers[threadIdx.x].place) == 0) _longjmp(scheduler, 1);
}

static double __shfl_down_sync(unsigned int, double value, int offset) {
    const unsigned int me = threadIdx.x;
    slots[me] = value;
    meet();
    const double theirs = me % 32 + offset < 32 ? slots[me + offset] : value;
    meet();
    return theirs;
}

static int __syncthreads_or(int predicate) {
    slots[threadIdx.x] = predicate != 0;
    meet();
    bool any = false;
    for (double slot : slots) any |= slot != 0;
    meet();
    return any;
}

static void __syncthreads() { meet(); }

using std::fabs;
using std::fmax;
using std::frexp;
using std::ldexp;
using std::sqrt;

// One fiber runs at a time, and none is interrupted.
template <typename T> static T atomicAdd(T* at, T more) {
    const T before = *at;
    *at += more;
    return before;
}

static unsigned int __float_as_uint(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float __uint_as_float(unsigned int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

static void fiber_main() {
    body(arguments);
    fibers[threadIdx.x].done = true;
    _longjmp(scheduler, 1);
}

static __attribute__((noinline)) void go_on(Fiber& fiber) {
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

static void run_block(unsigned int threads) {
    fibers.resize(threads);
    slots.assign(threads, 0);
    for (Fiber& fiber : fibers) {
        fiber.stack.resize(1 << 14);
        fiber.begun = fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (bool running = true; running;) {
        running = false;
        for (unsigned int i = 0; i < threads; ++i) {
            if (fibers[i].done) continue;
            threadIdx = {i, 0, 0};
            go_on(fibers[i]);
            running |= !fibers[i].done;
        }
    }
}

// A kernel called as the CUDA driver calls one: with an array of pointers to its arguments.
template <typename... A, std::size_t... I>
static void unpack(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(args[I])...);
}
template <typename... A>
static void call(void (*kernel)(A...), void** args) {
    unpack(kernel, args, std::index_sequence_for<A...>{});
}
static void launch(void (*kernel)(void**), unsigned int blocks, unsigned int threads, void** args) {
    body = kernel;
    arguments = args;
    blockDim = {threads, 1, 1};
    for (unsigned int i = 0; i < blocks; ++i) {
        blockIdx = {i, 0, 0};
        run_block(threads);
    }
}
#define EMULATE(name)                                                                       \
    extern "C" void emulate_##name(unsigned int blocks, unsigned int threads, void** args) { \
        launch([](void** a) { call(name, a); }, blocks, threads, args);                      \
    }
