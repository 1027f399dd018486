// What the text of a CUDA kernel needs to be compiled by g++: precompiled, in front of each kernel.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <utility>

#undef __noinline__
#define __device__
#define __host__
#define __global__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
extern "C" {  // in threads.c: one thread of one block runs at a time
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
extern char *emulated_shared;
void emulated_syncthreads();
void emulated_touch(char *at, int writes);
void emulated_run(void (*body)(void **), void **arguments, const unsigned *sizes, int barriers);
}
static const int warpSize = 32;
inline void __syncthreads() { emulated_syncthreads(); }

// An array in a block's memory: two threads that touch an entry, one of them writing, with no barrier
// between them, are an error.
template <class T> struct Checked {
  struct Entry {
    char *at;
    operator T() const { emulated_touch(at, 0); return *(T *)at; }
    T operator=(T x) const { emulated_touch(at, 1); return *(T *)at = x; }
  };
  char *start;
  explicit Checked(char *p) : start(p) {}
  Entry operator[](long i) const { return {start + i * (long)sizeof(T)}; }
};
#define SHARED(type) Checked<type>

template <class To, class From> inline To reinterpret_bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "");
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
inline unsigned __float_as_uint(float x) { return reinterpret_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return reinterpret_bits<float>(x); }
inline int __float_as_int(float x) { return reinterpret_bits<int>(x); }
inline float __int_as_float(int x) { return reinterpret_bits<float>(x); }
inline long long __double_as_longlong(double x) { return reinterpret_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return reinterpret_bits<double>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline long long clock64() { static long long now; return now += 1ll << 33; }

#define EMULATED_ATOMIC(name, value) \
  template <class T> inline T name(T *at, T v) { T old = *at; *at = value; return old; }
EMULATED_ATOMIC(atomicAdd, old + v)
EMULATED_ATOMIC(atomicSub, old - v)
EMULATED_ATOMIC(atomicExch, v)
EMULATED_ATOMIC(atomicMax, v > old ? v : old)
EMULATED_ATOMIC(atomicMin, v < old ? v : old)
EMULATED_ATOMIC(atomicAnd, old & v)
EMULATED_ATOMIC(atomicOr, old | v)
EMULATED_ATOMIC(atomicXor, old ^ v)
template <class T> inline T atomicCAS(T *at, T expected, T v) {
  T old = *at;
  if (old == expected) *at = v;
  return old;
}

using std::isfinite; using std::isinf; using std::isnan; using std::signbit;
template <class A, class B> inline auto max(A a, B b) -> decltype(a + b) { return a > b ? a : b; }
template <class A, class B> inline auto min(A a, B b) -> decltype(a + b) { return a < b ? a : b; }
// CUDA's functions of float stay in float; C's would go by way of double.
#define EMULATED_FLOAT(f) inline float f(float x) { return std::f(x); }
EMULATED_FLOAT(exp) EMULATED_FLOAT(log) EMULATED_FLOAT(sqrt) EMULATED_FLOAT(tanh) EMULATED_FLOAT(expm1)
EMULATED_FLOAT(log1p) EMULATED_FLOAT(erf) EMULATED_FLOAT(erfc) EMULATED_FLOAT(sin) EMULATED_FLOAT(cos)
EMULATED_FLOAT(floor) EMULATED_FLOAT(ceil) EMULATED_FLOAT(trunc) EMULATED_FLOAT(rint) EMULATED_FLOAT(fabs)
EMULATED_FLOAT(abs)
inline double abs(double x) { return std::fabs(x); }
inline float pow(float a, float b) { return std::pow(a, b); }
inline float fmod(float a, float b) { return std::fmod(a, b); }
inline float copysign(float a, float b) { return std::copysign(a, b); }
inline float rsqrt(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }

#include <cupy/complex.cuh>
#include <cupy/carray.cuh>

// What a kernel takes: bytes of each argument, and of an entry where it is an array (or a pointer).
template <class T> struct Entry { static const size_t bytes = 0; };
template <class T, int n, bool c, bool i> struct Entry<CArray<T, n, c, i>> { static const size_t bytes = sizeof(T); };
template <class T> struct Entry<T *> { static const size_t bytes = sizeof(T); };
template <class F> struct Signature;
template <class... A> struct Signature<void (*)(A...)> {
  static const size_t *sizes() {
    static const size_t all[] = {sizeof...(A), sizeof(A)..., Entry<A>::bytes...};
    return all;
  }
  template <size_t... I> static void call(void (*f)(A...), void **p, std::index_sequence<I...>) { f(*(A *)p[I]...); }
  static void call(void (*f)(A...), void **p) { call(f, p, std::index_sequence_for<A...>{}); }
};
#define EMULATED_KERNEL(name, barriers) \
  extern "C" const size_t *emulated_sizes_##name() { return Signature<decltype(&name)>::sizes(); } \
  static void emulated_body_##name(void **p) { Signature<decltype(&name)>::call(&name, p); } \
  extern "C" void emulated_launch_##name(const unsigned *sizes, void **p) { \
    emulated_run(&emulated_body_##name, p, sizes, barriers); }
