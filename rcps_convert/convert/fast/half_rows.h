// What half products are made of: elements, the channels and positions of a call, the rows of sums and differences, and
// the columns of mirrored taps.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 12;  // of a vector; rows of a register tile, two vectors wide
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 6;
#else
constexpr int BYTES = 16, ROWS = 6;
#endif
constexpr int TILE = 256;    // positions of a tile
constexpr int DEPTH = 192;   // columns multiplied before the next ones are laid out

template <class T>
struct Wide {
  typedef T type __attribute__((vector_size(BYTES)));
  typedef T loose __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = BYTES / sizeof(T), both = 2 * lanes;
};
template <class T>
using V = typename Wide<T>::type;
template <class T>
static inline V<T> load(const T* p) { return *reinterpret_cast<const typename Wide<T>::loose*>(p); }
template <class T>
static inline void store(T* p, V<T> v) { *reinterpret_cast<typename Wide<T>::loose*>(p) = v; }

// --- elements: as they are stored, and as they are computed with -------------------------------------------------

struct Brain { uint16_t bits; };
static inline float computed(float x) { return x; }
static inline double computed(double x) { return x; }
static inline float computed(Brain x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static inline void put(float& to, float x) { to = x; }
static inline void put(double& to, double x) { to = x; }
static inline void put(Brain& to, float x) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = nan ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// --- what is computed --------------------------------------------------------------------------------------------

struct Channels {  // table: first of each pair, second of each pair, fixed ones
  const int64_t* table;
  int pairs, fixed;
  int units() const { return pairs + fixed; }
  int all() const { return 2 * pairs + fixed; }
  int first(int u) const { return static_cast<int>(table[u < pairs ? u : u + pairs]); }
  int second(int u) const { return static_cast<int>(table[u + pairs]); }
};

struct Shape {
  Channels in, out;
  int64_t samples, length, made;  // positions read and made
  int kernel, dilation, pad, threads;
  int even() const { return kernel - kernel / 2; }
  int odd() const { return kernel / 2; }
  int64_t span() const { return static_cast<int64_t>(dilation) * (kernel - 1); }
  int plus(int u) const { return even() + (u < in.pairs ? odd() : 0); }
  int minus(int u) const { return odd() + (u < in.pairs ? even() : 0); }
};

// How positions are laid out: each sample by itself, or all in one row with gaps of zeros, whichever wastes less.
struct Row {
  int64_t samples, step, length;  // samples of a row, distance of their starts, positions of the row
  int64_t rows, tiles;            // rows, tiles of a row
  Row(const Shape& s, int panel) {
    auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    int64_t apart = s.samples * up(s.made, panel), gap = std::max(s.length + s.pad, s.made);
    bool joined = s.pad >= 0 && up(s.samples * gap, panel) < apart;
    samples = joined ? s.samples : 1;
    step = joined ? gap : s.made;
    length = joined ? s.samples * gap : s.made;
    rows = joined ? 1 : s.samples;
    tiles = up(length, TILE);
  }
};

struct Piece {  // entries [from, to) of a stretch of a row that belong to one sample; `at` is the sample's position there
  int64_t from, to, sample, at;
};
template <class Each>
static inline void pieces(const Row& row, int64_t r, int64_t start, int64_t count, Each each) {
  for (int64_t v = start; v < start + count;) {
    int64_t b = row.samples == 1 ? 0 : v / row.step, base = b * row.step;
    int64_t stop = row.samples == 1 ? start + count : std::min(start + count, base + row.step);
    each(Piece{v - start, stop - start, b < row.samples ? r * row.samples + b : -1, v - base});
    v = stop;
  }
}

template <class T>
struct Scratch {
  T* data;
  explicit Scratch(size_t count) : data(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) / 64 + 2) * 64))) {
    if (!data) throw std::bad_alloc();
  }
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// --- rows of sums and differences, and columns made of them ------------------------------------------------------

// s and d of one unit for `count` entries of a row that starts `start` positions in.
template <class E, class T>
static void butterfly(const E* x, const Channels& ch, int u, int64_t length, int64_t pad, const Row& row, int64_t r,
                      int64_t start, int64_t count, T* __restrict s, T* __restrict d) {
  bool pair = u < ch.pairs;
  pieces(row, r, start, count, [&](Piece p) {
    int64_t size = p.to - p.from, at = p.at - pad;
    int64_t lo = std::clamp<int64_t>(-at, 0, size), hi = std::clamp<int64_t>(length - at, lo, size);
    if (p.sample < 0) lo = hi = size;
    T *sp = s + p.from, *dp = d + p.from;
    std::fill(sp, sp + lo, T(0));
    std::fill(sp + hi, sp + size, T(0));
    if (pair) {
      std::fill(dp, dp + lo, T(0));
      std::fill(dp + hi, dp + size, T(0));
    }
    if (lo == hi) return;
    const E* a = x + (p.sample * ch.all() + ch.first(u)) * length + at;
    if (!pair) {
      for (int64_t j = lo; j < hi; j++) sp[j] = computed(a[j]);
      return;
    }
    const E* b = x + (p.sample * ch.all() + ch.second(u)) * length + at;
    for (int64_t j = lo; j < hi; j++) {
      T v = computed(a[j]), w = computed(b[j]);
      sp[j] = v + w;
      dp[j] = v - w;
    }
  });
}

// The rows of one unit for all taps: tap t starts at t * hop.
template <class E, class T>
static int64_t taps(const E* x, const Shape& sh, int u, const Row& row, int64_t r, int64_t start, int64_t count, T* s,
                    T* d) {
  if (count + sh.span() <= count * sh.kernel) {
    butterfly(x, sh.in, u, sh.length, sh.pad, row, r, start, count + sh.span(), s, d);
    return sh.dilation;
  }
  for (int t = 0; t < sh.kernel; t++)
    butterfly(x, sh.in, u, sh.length, sh.pad, row, r, start + static_cast<int64_t>(t) * sh.dilation, count,
              s + t * count, d + t * count);
  return count;
}
static inline int64_t tap_entries(const Shape& sh, int64_t count) {
  return std::min(count + sh.span(), count * sh.kernel);
}

// One column: mirrored taps of a row added (or subtracted), as `count` entries; `jump` apart every two vectors.
template <class T, bool ADD>
static inline void column(const T* a, const T* b, T* to, int64_t count, int64_t jump) {
  constexpr int L = Wide<T>::lanes;
  for (int64_t j = 0; j < count; j += 2 * L, to += jump) {
    V<T> v = load(a + j), w = load(b + j), v2 = load(a + j + L), w2 = load(b + j + L);
    store(to, ADD ? v + w : v - w);
    store(to + L, ADD ? v2 + w2 : v2 - w2);
  }
}
template <class T>
static inline void middle(const T* a, T* to, int64_t count, int64_t jump) {
  constexpr int L = Wide<T>::lanes;
  for (int64_t j = 0; j < count; j += 2 * L, to += jump) {
    store(to, load(a + j));
    store(to + L, load(a + j + L));
  }
}

// The columns of one unit: of "plus" and of "minus" results, each `apart` entries from the next.
template <class T>
static void columns(const Shape& sh, int u, const T* s, const T* d, int64_t hop, T* plus, T* minus, int64_t count,
                    int64_t apart, int64_t jump_plus, int64_t jump_minus) {
  bool pair = u < sh.in.pairs;
  int K = sh.kernel;
  for (int t = 0; t < sh.even(); t++, plus += apart) {
    if (t == K - 1 - t) middle(s + t * hop, plus, count, jump_plus);
    else column<T, true>(s + t * hop, s + (K - 1 - t) * hop, plus, count, jump_plus);
    if (!pair) continue;
    if (t == K - 1 - t) middle(d + t * hop, minus, count, jump_minus);
    else column<T, true>(d + t * hop, d + (K - 1 - t) * hop, minus, count, jump_minus);
    minus += apart;
  }
  for (int t = 0; t < sh.odd(); t++, minus += apart) {
    column<T, false>(s + t * hop, s + (K - 1 - t) * hop, minus, count, jump_minus);
    if (!pair) continue;
    column<T, false>(d + t * hop, d + (K - 1 - t) * hop, plus, count, jump_plus);
    plus += apart;
  }
}
