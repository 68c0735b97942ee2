// Half products of a tied convolution: forward, gradient of the input (the same with the transposed weight), gradient
// of the weight. No header of torch is needed: the functions at the end take plain pointers.
//
// Channels come in pairs (a, b) that reverse complement swaps, and fixed ones f. A tile of positions is read as rows
// s = a + b, d = a - b and s = f. A tap kernel is even or odd under reversal; mirrored taps are added (even) or
// subtracted (odd) before they are multiplied. "Plus" results are (y1 + y2) / 2 of a pair and the fixed channels: they
// read even taps of s and odd taps of d. "Minus" results are (y1 - y2) / 2: even taps of d, odd taps of s.
//
// Every position is computed by the same operations in the same order, wherever its tile begins, and every sum of
// mirrored values commutes: so the result of the mirrored input is bitwise the mirrored result.
#include <atomic>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "half_rows.h"

// --- weights -----------------------------------------------------------------------------------------------------

template <class E>
struct Weight {  // entries by channel out, channel in, tap
  E* data;
  int64_t out, in, tap;
  E& at(int o, int i, int t) const { return data[o * out + i * in + t * tap]; }
};
template <class E>
static Weight<E> weight_of(E* data, int out, int in, int kernel, bool transposed) {
  (void)out;
  int64_t k = kernel;
  if (!transposed) return {data, in * k, k, 1};
  return {data + k - 1, k, out * k, -1};  // out and in are those of the transposed weight
}

// Even and odd coefficients of a unit of the results on a unit read. With m = (w1 + w2) / 2 on sums (w1 on a fixed
// channel) and n = (w1 - w2) / 2 on differences: plus results read even m and odd n, minus results even n and odd m.
template <class E, class T>
static void halves(const Weight<const E>& w, const Shape& sh, int o, int u, T* even_plus, T* odd_plus, T* even_minus,
                   T* odd_minus) {
  int K = sh.kernel, o1 = sh.out.first(o), i1 = sh.in.first(u);
  bool pair = u < sh.in.pairs;
  int i2 = pair ? sh.in.second(u) : i1;
  T half = T(0.5);
  for (int t = 0; t < sh.even(); t++) {
    T a = computed(w.at(o1, i1, t)), a_back = computed(w.at(o1, i1, K - 1 - t));
    T b = computed(w.at(o1, i2, t)), b_back = computed(w.at(o1, i2, K - 1 - t));
    T m = half * (a + b), m_back = half * (a_back + b_back), n = half * (a - b), n_back = half * (a_back - b_back);
    even_plus[t] = half * (m + m_back);
    even_minus[t] = half * (n + n_back);
    if (t >= sh.odd()) continue;
    odd_plus[t] = half * (n - n_back);
    odd_minus[t] = half * (m - m_back);
  }
}

struct Panels {  // rows in register tiles of nearly equal height
  int rows, count;
  explicit Panels(int rows) : rows(rows), count((rows + ROWS - 1) / ROWS) {}
  int start(int p) const { return static_cast<int>(static_cast<int64_t>(rows) * p / std::max(count, 1)); }
};

struct Block { int from, to, plus, minus; };  // units laid out together, and their columns
static std::vector<Block> blocks(const Shape& sh) {
  std::vector<Block> found;
  for (int u = 0; u < sh.in.units();) {
    Block b{u, u, 0, 0};
    while (b.to < sh.in.units() && (b.to == b.from || std::max(b.plus + sh.plus(b.to), b.minus + sh.minus(b.to)) <= DEPTH)) {
      b.plus += sh.plus(b.to);
      b.minus += sh.minus(b.to);
      b.to++;
    }
    found.push_back(b);
    u = b.to;
  }
  return found;
}

template <class T>
struct Packed {  // per block, per panel of rows: columns x rows
  std::vector<T> plus, minus;
};
template <class E, class T>
static Packed<T> packed(const Weight<const E>& w, const Shape& sh, const std::vector<Block>& bs) {
  size_t all_plus = 0, all_minus = 0;
  for (const Block& b : bs) all_plus += b.plus, all_minus += b.minus;
  int rows = sh.out.units(), pairs = sh.out.pairs, e = sh.even(), h = sh.odd();
  Packed<T> to{std::vector<T>(all_plus * rows), std::vector<T>(all_minus * pairs)};
  std::vector<T> ep(e), op(e), em(e), om(e);
  Panels pp(rows), pm(pairs);
  T *plus = to.plus.data(), *minus = to.minus.data();
  for (const Block& b : bs) {
    for (int p = 0; p < pp.count; p++)
      for (int o = pp.start(p); o < pp.start(p + 1); o++) {
        int height = pp.start(p + 1) - pp.start(p);
        T* at = plus + static_cast<size_t>(pp.start(p)) * b.plus + (o - pp.start(p));
        int q = 0;
        while (q + 1 < pm.count && pm.start(q + 1) <= o) q++;
        T* at2 = o < pairs ? minus + static_cast<size_t>(pm.start(q)) * b.minus + (o - pm.start(q)) : nullptr;
        int height2 = o < pairs ? pm.start(q + 1) - pm.start(q) : 0;
        for (int u = b.from; u < b.to; u++) {
          bool pair = u < sh.in.pairs;
          halves(w, sh, o, u, ep.data(), op.data(), em.data(), om.data());
          for (int t = 0; t < e; t++, at += height) *at = ep[t];
          for (int t = 0; pair && t < h; t++, at += height) *at = op[t];
          if (!at2) continue;
          for (int t = 0; pair && t < e; t++, at2 += height2) *at2 = em[t];
          for (int t = 0; t < h; t++, at2 += height2) *at2 = om[t];
        }
      }
    plus += static_cast<size_t>(b.plus) * rows;
    minus += static_cast<size_t>(b.minus) * pairs;
  }
  return to;
}

// --- products ----------------------------------------------------------------------------------------------------

// c (M rows, two vectors) = or += a (k x M) times b (k x two vectors)
template <class T, int M>
static void multiply(const T* __restrict a, const T* __restrict b, T* __restrict c, int64_t apart, int k, bool add) {
  constexpr int L = Wide<T>::lanes;
  V<T> r[M][2];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    r[i][0] = add ? load(c + i * apart) : V<T>{};
    r[i][1] = add ? load(c + i * apart + L) : V<T>{};
  }
  for (int j = 0; j < k; j++) {
    V<T> b0 = load(b + j * 2 * L), b1 = load(b + j * 2 * L + L);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      T v = a[j * M + i];
      r[i][0] += v * b0;
      r[i][1] += v * b1;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    store(c + i * apart, r[i][0]);
    store(c + i * apart + L, r[i][1]);
  }
}

// c (M rows of N vectors) += sum over positions p of a row's entry p times b[p] (N vectors); each tile is summed by
// itself first, which keeps rounding small however many tiles there are
template <class T, int M, int N>
static void outer(const T* __restrict rows, int64_t apart, const T* __restrict b, int64_t wide, T* __restrict c,
                  int64_t count) {
  constexpr int L = Wide<T>::lanes;
  V<T> r[M][N];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
    for (int n = 0; n < N; n++) r[i][n] = V<T>{};
  for (int64_t p = 0; p < count; p++) {
    V<T> b0 = load(b + p * wide), b1 = load(b + p * wide + (N - 1) * L);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      T v = rows[i * apart + p];
      r[i][0] += v * b0;
      if constexpr (N == 2) r[i][1] += v * b1;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
    for (int n = 0; n < N; n++) store(c + i * wide + n * L, load(c + i * wide + n * L) + r[i][n]);
}

template <class T, int M = ROWS>
struct Heights {  // the kernel for a number of rows
  static void multiply_by(int m, const T* a, const T* b, T* c, int64_t apart, int k, bool add) {
    if constexpr (M > 0) {
      if (m == M) multiply<T, M>(a, b, c, apart, k, add);
      else Heights<T, M - 1>::multiply_by(m, a, b, c, apart, k, add);
    }
  }
  template <int N>
  static void outer_by(int m, const T* rows, int64_t apart, const T* b, int64_t wide, T* c, int64_t count) {
    if constexpr (M > 0) {
      if (m == M) outer<T, M, N>(rows, apart, b, wide, c, count);
      else Heights<T, M - 1>::template outer_by<N>(m, rows, apart, b, wide, c, count);
    }
  }
};

template <class T>
static void product(const T* a, const T* b, T* c, const Panels& rows, int k, int panels, bool add) {
  if (!k) {
    if (!add) std::fill(c, c + static_cast<int64_t>(rows.rows) * TILE, T(0));
    return;
  }
  for (int q = 0; q < panels; q++)
    for (int p = 0; p < rows.count; p++) {
      int start = rows.start(p);
      Heights<T>::multiply_by(rows.start(p + 1) - start, a + static_cast<size_t>(start) * k,
                              b + static_cast<size_t>(q) * k * Wide<T>::both, c + static_cast<size_t>(start) * TILE + q * Wide<T>::both,
                              TILE, k, add);
    }
}

// --- forward -----------------------------------------------------------------------------------------------------

template <class E, class T>
static void put_results(const Shape& sh, const Row& row, int64_t r, int64_t start, int64_t count, const T* plus,
                        const T* minus, const E* bias, E* y) {
  pieces(row, r, start, count, [&](Piece p) {
    int64_t size = std::min(p.to - p.from, sh.made - p.at);
    if (p.sample < 0 || size <= 0) return;
    for (int o = 0; o < sh.out.units(); o++) {
      T b = bias ? T(computed(bias[sh.out.first(o)])) : T(0);
      const T* u = plus + static_cast<size_t>(o) * TILE + p.from;
      E* first = y + (p.sample * sh.out.all() + sh.out.first(o)) * sh.made + p.at;
      if (o >= sh.out.pairs) {
        for (int64_t j = 0; j < size; j++) put(first[j], u[j] + b);
        continue;
      }
      const T* v = minus + static_cast<size_t>(o) * TILE + p.from;
      E* second = y + (p.sample * sh.out.all() + sh.out.second(o)) * sh.made + p.at;
      for (int64_t j = 0; j < size; j++) {
        T mean = u[j] + b;
        put(first[j], mean + v[j]);
        put(second[j], mean - v[j]);
      }
    }
  });
}

template <class Each>
static void in_parallel(int threads, int64_t count, Each each) {
  threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, count)));
#ifdef _OPENMP
  if (threads > 1) {
    std::atomic<bool> failed{false};  // no exception may leave a parallel region
#pragma omp parallel num_threads(threads)
    {
      int64_t id = omp_get_thread_num(), all = omp_get_num_threads();
      try {
        each(static_cast<int>(id), count * id / all, count * (id + 1) / all);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
    if (failed) throw std::bad_alloc();
    return;
  }
#endif
  each(0, 0, count);
}

template <class E, class T>
static void forward(const Shape& sh, const E* x, const E* weight, const E* bias, bool transposed, E* y) {
  constexpr int NR = Wide<T>::both;
  const Row row(sh, NR);
  const auto bs = blocks(sh);
  const auto w = weight_of(weight, sh.out.all(), sh.in.all(), sh.kernel, transposed);
  const Packed<T> pack = packed<E, T>(w, sh, bs);
  const Panels plus_rows(sh.out.units()), minus_rows(sh.out.pairs);
  int most_plus = 0, most_minus = 0;
  for (const Block& b : bs) most_plus = std::max(most_plus, b.plus), most_minus = std::max(most_minus, b.minus);
  in_parallel(sh.threads, row.rows * row.tiles, [&](int, int64_t from, int64_t to) {
    size_t entries = tap_entries(sh, TILE) + NR;
    Scratch<T> s(entries), d(entries), bp(static_cast<size_t>(most_plus) * TILE), bm(static_cast<size_t>(most_minus) * TILE);
    Scratch<T> cp(static_cast<size_t>(sh.out.units()) * TILE), cm(static_cast<size_t>(sh.out.pairs) * TILE);
    for (int64_t tile = from; tile < to; tile++) {
      int64_t r = tile / row.tiles, start = tile % row.tiles * TILE, count = std::min<int64_t>(TILE, row.length - start);
      int panels = static_cast<int>((count + NR - 1) / NR);
      const T *ap = pack.plus.data(), *am = pack.minus.data();
      for (const Block& b : bs) {
        T *tp = bp.data, *tm = bm.data;
        for (int u = b.from; u < b.to; u++) {
          int64_t hop = taps(x, sh, u, row, r, start, static_cast<int64_t>(panels) * NR, s.data, d.data);
          columns(sh, u, s.data, d.data, hop, tp, tm, static_cast<int64_t>(panels) * NR, NR,
                  static_cast<int64_t>(b.plus) * NR, static_cast<int64_t>(b.minus) * NR);
          tp += static_cast<int64_t>(sh.plus(u)) * NR;
          tm += static_cast<int64_t>(sh.minus(u)) * NR;
        }
        product(ap, bp.data, cp.data, plus_rows, b.plus, panels, b.from > 0);
        product(am, bm.data, cm.data, minus_rows, b.minus, panels, b.from > 0);
        ap += static_cast<size_t>(b.plus) * plus_rows.rows;
        am += static_cast<size_t>(b.minus) * minus_rows.rows;
      }
      put_results(sh, row, r, start, count, cp.data, cm.data, bias, y);
    }
  });
}

// --- gradient of the weight --------------------------------------------------------------------------------------

// Rows of `lanes` channels as columns: to[p * wide + channel].
template <class T>
static void transpose(const T* from, int64_t apart, T* to, int64_t wide, int64_t count) {
  constexpr int L = Wide<T>::lanes;
#if defined(__GNUC__) && !defined(__clang__)
  typedef typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type I;
  typedef I M __attribute__((vector_size(BYTES)));
  for (int64_t p = 0; p < count; p += L) {
    V<T> r[L], q[L];
    for (int i = 0; i < L; i++) r[i] = load(from + i * apart + p);
#pragma GCC unroll 4
    for (int h = L / 2; h >= 1; h /= 2) {  // swap the off-diagonal quarters of squares of 2 h
      M low, high;
      for (int j = 0; j < L; j++) {
        low[j] = j & h ? L + j - h : j;
        high[j] = j & h ? L + j : j + h;
      }
#pragma GCC unroll 16
      for (int i = 0; i < L; i++)
        q[i] = i & h ? __builtin_shuffle(r[i - h], r[i], high) : __builtin_shuffle(r[i], r[i + h], low);
#pragma GCC unroll 16
      for (int i = 0; i < L; i++) r[i] = q[i];
    }
    for (int i = 0; i < L; i++) store(to + (p + i) * wide, r[i]);
  }
#else
  for (int64_t p = 0; p < count; p++)
    for (int i = 0; i < L; i++) to[p * wide + i] = from[i * apart + p];
#endif
}

// Half sums and half differences of the gradients of the results, positions x channels.
template <class E, class T>
static void gradients(const Shape& sh, const Row& row, int64_t r, int64_t start, int64_t count, const E* g, T* rows,
                      T* plus, int64_t wide_plus, T* minus, int64_t wide_minus) {
  constexpr int L = Wide<T>::lanes;
  T *s = rows, *d = rows + L * TILE;
  for (int o = 0; o < wide_plus; o += L) {
    for (int i = 0; i < L; i++) {
      if (o + i < sh.out.units()) butterfly(g, sh.out, o + i, sh.made, 0, row, r, start, count, s + i * TILE, d + i * TILE);
      else std::fill(s + i * TILE, s + i * TILE + count, T(0));
      if (o + i >= sh.out.pairs) std::fill(d + i * TILE, d + i * TILE + count, T(0));
    }
    transpose(s, TILE, plus + o, wide_plus, count);
    if (o < wide_minus) transpose(d, TILE, minus + o, wide_minus, count);
  }
}

template <class T>
static void outer_products(const T* cols, int columns, const T* g, int64_t wide, int64_t count, T* c) {
  constexpr int L = Wide<T>::lanes;
  Panels panels(columns);
  for (int64_t o = 0; o < wide; o += 2 * L)
    for (int p = 0; p < panels.count; p++) {
      int64_t start = panels.start(p);
      int m = panels.start(p + 1) - panels.start(p);
      const T* rows = cols + start * TILE;
      if (o + L < wide) Heights<T>::template outer_by<2>(m, rows, TILE, g + o, wide, c + start * wide + o, count);
      else Heights<T>::template outer_by<1>(m, rows, TILE, g + o, wide, c + start * wide + o, count);
    }
}

// The chain rule through `halves`, into the rows of the weight that they read; the other rows get nothing.
template <class E, class T>
static void unhalved(const Shape& sh, const T* plus, int64_t wide_plus, const T* minus, int64_t wide_minus, E* gw) {
  int K = sh.kernel, e = sh.even(), h = sh.odd();
  const auto w = weight_of(gw, sh.out.all(), sh.in.all(), K, false);
  std::vector<T> m(K), n(K);
  T half = T(0.5);
  for (int u = 0; u < sh.in.units(); u++) {
    bool pair = u < sh.in.pairs;
    for (int o = 0; o < sh.out.units(); o++) {
      bool both = o < sh.out.pairs;
      std::fill(m.begin(), m.end(), T(0));
      std::fill(n.begin(), n.end(), T(0));
      for (int t = 0; t < e; t++) {
        T p = half * plus[t * wide_plus + o], q = pair && both ? half * minus[t * wide_minus + o] : T(0);
        m[t] += p, m[K - 1 - t] += p, n[t] += q, n[K - 1 - t] += q;
      }
      for (int t = 0; t < h; t++) {
        T p = pair ? half * plus[(e + t) * wide_plus + o] : T(0);
        T q = both ? half * minus[((pair ? e : 0) + t) * wide_minus + o] : T(0);
        n[t] += p, n[K - 1 - t] -= p, m[t] += q, m[K - 1 - t] -= q;
      }
      int o1 = sh.out.first(o), i1 = sh.in.first(u);
      for (int t = 0; t < K; t++) {
        put(w.at(o1, i1, t), pair ? half * (m[t] + n[t]) : m[t]);
        if (pair) put(w.at(o1, sh.in.second(u), t), half * (m[t] - n[t]));
      }
    }
    plus += sh.plus(u) * wide_plus;
    minus += sh.minus(u) * wide_minus;
  }
}

template <class E, class T>
static void weight_gradient(const Shape& sh, const E* x, const E* g, E* gw) {
  constexpr int L = Wide<T>::lanes, NR = Wide<T>::both;
  const Row row(sh, NR);
  const auto bs = blocks(sh);
  int64_t wide_plus = (sh.out.units() + L - 1) / L * L, wide_minus = (sh.out.pairs + L - 1) / L * L;
  int64_t all_plus = 0, all_minus = 0;
  int most_plus = 0, most_minus = 0;
  for (const Block& b : bs) {
    all_plus += b.plus, all_minus += b.minus;
    most_plus = std::max(most_plus, b.plus), most_minus = std::max(most_minus, b.minus);
  }
  size_t size = static_cast<size_t>(all_plus * wide_plus + all_minus * wide_minus);
  int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(sh.threads, row.rows * row.tiles)));
  std::vector<T> sums(size * threads, T(0));
  in_parallel(threads, row.rows * row.tiles, [&](int id, int64_t from, int64_t to) {
    size_t entries = tap_entries(sh, TILE) + NR;
    Scratch<T> s(entries), d(entries), bp(static_cast<size_t>(most_plus) * TILE), bm(static_cast<size_t>(most_minus) * TILE);
    Scratch<T> gp(static_cast<size_t>(wide_plus) * TILE), gm(static_cast<size_t>(wide_minus) * TILE), rows(2 * L * TILE);
    for (int64_t tile = from; tile < to; tile++) {
      int64_t r = tile / row.tiles, start = tile % row.tiles * TILE, count = std::min<int64_t>(TILE, row.length - start);
      count = (count + NR - 1) / NR * NR;
      T *cp = sums.data() + size * id, *cm = cp + all_plus * wide_plus;
      gradients(sh, row, r, start, count, g, rows.data, gp.data, wide_plus, gm.data, wide_minus);
      for (const Block& b : bs) {
        T *tp = bp.data, *tm = bm.data;
        for (int u = b.from; u < b.to; u++) {
          int64_t hop = taps(x, sh, u, row, r, start, count, s.data, d.data);
          columns(sh, u, s.data, d.data, hop, tp, tm, count, TILE, NR, NR);
          tp += static_cast<int64_t>(sh.plus(u)) * TILE;
          tm += static_cast<int64_t>(sh.minus(u)) * TILE;
        }
        outer_products(bp.data, b.plus, gp.data, wide_plus, count, cp);
        outer_products(bm.data, b.minus, gm.data, wide_minus, count, cm);
        cp += b.plus * wide_plus;
        cm += b.minus * wide_minus;
      }
    }
  });
  for (int i = 1; i < threads; i++)
    for (size_t j = 0; j < size; j++) sums[j] += sums[size * i + j];
  unhalved(sh, sums.data(), wide_plus, sums.data() + all_plus * wide_plus, wide_minus, gw);
}

// --- what is called ----------------------------------------------------------------------------------------------

// sizes: pairs and fixed channels in; pairs and fixed channels out; samples; positions read; positions made; kernel;
// dilation; pad; threads; whether the weight is given transposed. Returns 0, or 1 when memory ran out.
static Shape shape_of(const int64_t* n, const int64_t* in, const int64_t* out) {
  auto i = [&](int k) { return static_cast<int>(n[k]); };
  return {{in, i(0), i(1)}, {out, i(2), i(3)}, n[4], n[5], n[6], i(7), i(8), i(9), i(10)};
}
template <class E, class T>
static int run_forward(const int64_t* sizes, const int64_t* in, const int64_t* out, const void* x, const void* w,
                       const void* bias, void* y) {
  try {
    forward<E, T>(shape_of(sizes, in, out), static_cast<const E*>(x), static_cast<const E*>(w),
                  static_cast<const E*>(bias), sizes[11] != 0, static_cast<E*>(y));
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
template <class E, class T>
static int run_gradient(const int64_t* sizes, const int64_t* in, const int64_t* out, const void* x, const void* g,
                        void* gw) {
  try {
    weight_gradient<E, T>(shape_of(sizes, in, out), static_cast<const E*>(x), static_cast<const E*>(g),
                          static_cast<E*>(gw));
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

#define EXPORTED(NAME, E, T)                                                                                        \
  extern "C" int half_forward_##NAME(const int64_t* sizes, const int64_t* in, const int64_t* out, const void* x,    \
                                     const void* w, const void* bias, void* y) {                                    \
    return run_forward<E, T>(sizes, in, out, x, w, bias, y);                                                        \
  }                                                                                                                 \
  extern "C" int half_gradient_##NAME(const int64_t* sizes, const int64_t* in, const int64_t* out, const void* x,   \
                                      const void* g, void* gw) {                                                    \
    return run_gradient<E, T>(sizes, in, out, x, g, gw);                                                            \
  }
EXPORTED(float32, float, float)
EXPORTED(float64, double, double)
EXPORTED(bfloat16, Brain, float)
