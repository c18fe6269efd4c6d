// The maps around the products, and the norms: each in one pass over memory (norms: two or three).
//
// PyTorch makes them of whole-array operations, each of which reads and writes everything anew.
// What is computed is what `schemes.py` and `norm.py` say; `passes.py` calls it. Built by
// `hatch_build.py`, once for each instruction set, from this file alone.
//
// Images are (n, rows, columns, channels), channels together; sums are float32 whatever is stored.

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef _OPENMP
#define STRINGIFIED(x) #x
#define PRAGMA(x) _Pragma(STRINGIFIED(x))
#define IN_PARALLEL(loops) PRAGMA(omp parallel for collapse(loops) num_threads(threads))
#else
#error "needs OpenMP: PyTorch's threads are shared with it"
#endif

namespace {

// ---- Numbers: sixteen at a time, as many as a row of channels has, and one by one for the rest.

using Lanes = float __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));
using Halves = std::uint16_t __attribute__((vector_size(32)));
constexpr long kLanes = 16;

struct BFloat16 {
  std::uint16_t bits;
};

template <class V>
V load(const float* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
V load(const BFloat16* from) {
  using Narrow = std::conditional_t<std::is_same_v<V, float>, std::uint16_t, Halves>;
  using Wide = std::conditional_t<std::is_same_v<V, float>, std::uint32_t, Words>;
  Narrow narrow;
  std::memcpy(&narrow, from, sizeof narrow);
  Wide wide;
  if constexpr (std::is_same_v<V, float>) {
    wide = narrow;
  } else {
    wide = __builtin_convertvector(narrow, Words);
  }
  wide <<= 16;
  V v;
  std::memcpy(&v, &wide, sizeof v);
  return v;
}

template <class V>
void store(float* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// Rounds to nearest, ties to even. A float's upper half is its bfloat16; a carry may run into the
// exponent, which is right. Only NaNs whose lower bits are all set, which no operation makes, stop
// being NaNs.
template <class V>
void store(BFloat16* to, V v) {
  using Wide = std::conditional_t<std::is_same_v<V, float>, std::uint32_t, Words>;
  Wide wide;
  std::memcpy(&wide, &v, sizeof wide);
  wide = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  if constexpr (std::is_same_v<V, float>) {
    to->bits = static_cast<std::uint16_t>(wide);
  } else {
    const Halves narrow = __builtin_convertvector(wide, Halves);
    std::memcpy(to, &narrow, sizeof narrow);
  }
}

// Calls body(c, zero) for all channels, `zero` being of the type that holds those from c on.
template <class Body>
inline __attribute__((always_inline)) void each(long channels, Body body) {
  long c = 0;
  for (; c + kLanes <= channels; c += kLanes) body(c, Lanes{});
  for (; c < channels; ++c) body(c, float{});
}

// ---- Images

struct Image {
  void* data;
  long n, rows, columns, channels, image_step, row_step, column_step;  // steps in numbers
};

// Where a pixel's channels begin, or null outside the image.
template <class E>
E* pixel(const Image& image, long n, long row, long column) {
  if (row < 0 || column < 0 || row >= image.rows || column >= image.columns) return nullptr;
  return static_cast<E*>(image.data) + n * image.image_step + row * image.row_step +
         column * image.column_step;
}

// ---- Winograd's rules along one axis: two neighbouring results of a filter from P products.

template <int P>
struct Rule;

// Two taps: y0 = (d0 - d1) g0 + d1 (g0 + g1), y1 = (d2 - d1) g1 + d1 (g0 + g1).
template <>
struct Rule<3> {
  static constexpr int kTaps = 2;
  template <class V>
  static void data(const V* d, V* x) {
    x[0] = d[0] - d[1], x[1] = d[1], x[2] = d[2] - d[1];
  }
  template <class V>
  static void data_adjoint(const V* x, V* d) {
    d[0] = x[0], d[1] = x[1] - x[0] - x[2], d[2] = x[2];
  }
  template <class V>
  static void result(const V* x, V* y) {
    y[0] = x[0] + x[1], y[1] = x[1] + x[2];
  }
  template <class V>
  static void result_adjoint(const V* y, V* x) {
    x[0] = y[0], x[1] = y[0] + y[1], x[2] = y[1];
  }
  template <class V>
  static void taps(const V* g, V* u) {
    u[0] = g[0], u[1] = g[0] + g[1], u[2] = g[1];
  }
  template <class V>
  static void taps_adjoint(const V* u, V* g) {
    g[0] = u[0] + u[1], g[1] = u[1] + u[2];
  }
};

// Three taps: Lavin and Gray 2016 (arXiv:1509.09308), section 4.1.
template <>
struct Rule<4> {
  static constexpr int kTaps = 3;
  template <class V>
  static void data(const V* d, V* x) {
    x[0] = d[0] - d[2], x[1] = d[1] + d[2], x[2] = d[2] - d[1], x[3] = d[1] - d[3];
  }
  template <class V>
  static void data_adjoint(const V* x, V* d) {
    d[0] = x[0], d[1] = x[1] - x[2] + x[3], d[2] = x[1] + x[2] - x[0], d[3] = -x[3];
  }
  template <class V>
  static void result(const V* x, V* y) {
    y[0] = x[0] + x[1] + x[2], y[1] = x[1] - x[2] - x[3];
  }
  template <class V>
  static void result_adjoint(const V* y, V* x) {
    x[0] = y[0], x[1] = y[0] + y[1], x[2] = y[0] - y[1], x[3] = -y[1];
  }
  template <class V>
  static void taps(const V* g, V* u) {
    const V outer = (g[0] + g[2]) * 0.5f, inner = g[1] * 0.5f;
    u[0] = g[0], u[1] = outer + inner, u[2] = outer - inner, u[3] = g[2];
  }
  template <class V>
  static void taps_adjoint(const V* u, V* g) {
    const V outer = (u[1] + u[2]) * 0.5f;
    g[0] = u[0] + outer, g[1] = (u[1] - u[2]) * 0.5f, g[2] = outer + u[3];
  }
};

// A rule along columns, then along rows: `in` is A x A, `out` is B x B.
#define ALONG_BOTH(NAME, A, B)                                        \
  template <int P, class V>                                           \
  inline void NAME##_both(const V* in, V* out) {                      \
    V half[(A) * (B)];                                                \
    _Pragma("GCC unroll 4") for (int i = 0; i < (A); ++i)             \
        Rule<P>::NAME(in + i * (A), half + i * (B));                  \
    _Pragma("GCC unroll 4") for (int j = 0; j < (B); ++j) {           \
      V from[A], to[B];                                               \
      _Pragma("GCC unroll 4") for (int i = 0; i < (A); ++i)           \
          from[i] = half[i * (B) + j];                                \
      Rule<P>::NAME(from, to);                                        \
      _Pragma("GCC unroll 4") for (int i = 0; i < (B); ++i)           \
          out[i * (B) + j] = to[i];                                   \
    }                                                                 \
  }
ALONG_BOTH(data, P, P)
ALONG_BOTH(result, P, 2)
ALONG_BOTH(result_adjoint, 2, P)
ALONG_BOTH(taps, Rule<P>::kTaps, P)
ALONG_BOTH(taps_adjoint, P, Rule<P>::kTaps)

// ---- Maps of a scheme with P products an axis, over cells of S x S pixels.
//
// Tile (i, j) reads P x P cells from cell (2 i, 2 j) on and gives 2 x 2 results. Products lie
// `step` numbers apart; in each, a row is a tile's S x S x channels (image) or channels (result).

template <int P, int S, class E>
void expand(const Image& image, long top, long left, long tiles_down, long tiles_across, E* out,
            long step, int threads) {
  const long channels = image.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < image.n; ++n)
    for (long i = 0; i < tiles_down; ++i)
      for (long j = 0; j < tiles_across; ++j)
        for (int phase = 0; phase < S * S; ++phase) {
          const E* from[P * P];
          bool inside = true;
          for (int k = 0; k < P * P; ++k) {
            from[k] = pixel<E>(image, n, top + (2 * i + k / P) * S + phase / S,
                               left + (2 * j + k % P) * S + phase % S);
            inside &= from[k] != nullptr;
          }
          E* to = out + (((n * tiles_down + i) * tiles_across + j) * S * S + phase) * channels;
          const auto map = [&](auto all_inside) {
            each(channels, [&](long c, auto zero) {
              using V = decltype(zero);
              V d[P * P], x[P * P];
#pragma GCC unroll 16
              for (int k = 0; k < P * P; ++k)
                d[k] = all_inside.value || from[k] ? load<V>(from[k] + c) : zero;
              data_both<P>(d, x);
#pragma GCC unroll 16
              for (int k = 0; k < P * P; ++k) store(to + k * step + c, x[k]);
            });
          };
          inside ? map(std::true_type{}) : map(std::false_type{});
        }
}

// Gathered by pairs of cells, to which the tile below and to the right of their first one and its
// neighbours above and to the left give: a cell of a tile beyond its second is in the next pair.
template <int P, int S, class E>
void contract(const E* in, long step, long tiles_down, long tiles_across, const Image& image,
              long top, long left, int added, int threads) {
  const long channels = image.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < image.n; ++n)
    for (long i = 0; i <= tiles_down; ++i)
      for (long j = 0; j <= tiles_across; ++j)
        for (int phase = 0; phase < S * S; ++phase) {
          const E* from[2][2];
          E* to[2][2];
          for (int a = 0; a < 2; ++a)
            for (int b = 0; b < 2; ++b) {
              const long down = i - a, across = j - b;
              const bool is_tile =
                  down >= 0 && across >= 0 && down < tiles_down && across < tiles_across;
              from[a][b] = is_tile ? in + (((n * tiles_down + down) * tiles_across + across) * S *
                                               S + phase) * channels
                                   : nullptr;
              to[a][b] = pixel<E>(image, n, top + (2 * i + a) * S + phase / S,
                                  left + (2 * j + b) * S + phase % S);
            }
          each(channels, [&](long c, auto zero) {
            using V = decltype(zero);
            V sum[2][2] = {};
#pragma GCC unroll 2
            for (int a = 0; a < 2; ++a)
#pragma GCC unroll 2
              for (int b = 0; b < 2; ++b) {
                if (!from[a][b]) continue;
                V half[2][P];
#pragma GCC unroll 4
                for (int q = 0; q < P; ++q) {
                  V x[P], d[4] = {};
#pragma GCC unroll 4
                  for (int p = 0; p < P; ++p)
                    x[p] = load<V>(from[a][b] + (p * P + q) * step + c);
                  Rule<P>::data_adjoint(x, d);
                  half[0][q] = d[2 * a], half[1][q] = d[2 * a + 1];
                }
#pragma GCC unroll 2
                for (int u = 0; u < 2; ++u) {
                  V d[4] = {};
                  Rule<P>::data_adjoint(half[u], d);
                  sum[u][0] += d[2 * b], sum[u][1] += d[2 * b + 1];
                }
              }
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
              E* place = to[k / 2][k % 2];
              if (!place) continue;
              if (added) sum[k / 2][k % 2] += load<V>(place + c);
              store(place + c, sum[k / 2][k % 2]);
            }
          });
        }
}

template <int P, class E>
void collect(const E* in, long step, long tiles_down, long tiles_across, const Image& result,
             int threads) {
  const long channels = result.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < result.n; ++n)
    for (long i = 0; i < tiles_down; ++i)
      for (long j = 0; j < tiles_across; ++j) {
        E* to[4];
        for (int k = 0; k < 4; ++k) to[k] = pixel<E>(result, n, 2 * i + k / 2, 2 * j + k % 2);
        const E* from = in + ((n * tiles_down + i) * tiles_across + j) * channels;
        each(channels, [&](long c, auto zero) {
          using V = decltype(zero);
          V x[P * P], y[4];
#pragma GCC unroll 16
          for (int k = 0; k < P * P; ++k) x[k] = load<V>(from + k * step + c);
          result_both<P>(x, y);
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k)
            if (to[k]) store(to[k] + c, y[k]);
        });
      }
}

template <int P, class E>
void spread(const Image& result, long tiles_down, long tiles_across, E* out, long step,
            int threads) {
  const long channels = result.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < result.n; ++n)
    for (long i = 0; i < tiles_down; ++i)
      for (long j = 0; j < tiles_across; ++j) {
        const E* from[4];
        for (int k = 0; k < 4; ++k) from[k] = pixel<E>(result, n, 2 * i + k / 2, 2 * j + k % 2);
        E* to = out + ((n * tiles_down + i) * tiles_across + j) * channels;
        each(channels, [&](long c, auto zero) {
          using V = decltype(zero);
          V y[4], x[P * P];
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) y[k] = from[k] ? load<V>(from[k] + c) : zero;
          result_adjoint_both<P>(y, x);
#pragma GCC unroll 16
          for (int k = 0; k < P * P; ++k) store(to + k * step + c, x[k]);
        });
      }
}

// Weights (taps, taps, channels, features), in float32, and matrices (products, rows, features), a
// row being a pixel of a cell and a channel.

template <int P, int S>
long tap(int k, long row, long channels) {
  constexpr int kTaps = Rule<P>::kTaps;
  const long phase = row / channels, c = row % channels;
  const long down = k / kTaps * S + phase / S, across = k % kTaps * S + phase % S;
  return (down * kTaps * S + across) * channels + c;
}

template <int P, int S, class E>
void pack(const float* weight, long channels, long features, E* out, int threads) {
  constexpr int kTaps = Rule<P>::kTaps;
  const long rows = S * S * channels;
  IN_PARALLEL(1)
  for (long row = 0; row < rows; ++row)
    each(features, [&](long f, auto zero) {
      using V = decltype(zero);
      V g[kTaps * kTaps], u[P * P];
#pragma GCC unroll 16
      for (int k = 0; k < kTaps * kTaps; ++k)
        g[k] = load<V>(weight + tap<P, S>(k, row, channels) * features + f);
      taps_both<P>(g, u);
#pragma GCC unroll 16
      for (int k = 0; k < P * P; ++k) store(out + (k * rows + row) * features + f, u[k]);
    });
}

template <int P, int S, class E>
void unpack(const E* in, long channels, long features, float* weight, int threads) {
  constexpr int kTaps = Rule<P>::kTaps;
  const long rows = S * S * channels;
  IN_PARALLEL(1)
  for (long row = 0; row < rows; ++row)
    each(features, [&](long f, auto zero) {
      using V = decltype(zero);
      V u[P * P], g[kTaps * kTaps];
#pragma GCC unroll 16
      for (int k = 0; k < P * P; ++k) u[k] = load<V>(in + (k * rows + row) * features + f);
      taps_adjoint_both<P>(u, g);
#pragma GCC unroll 16
      for (int k = 0; k < kTaps * kTaps; ++k)
        store(weight + tap<P, S>(k, row, channels) * features + f, g[k]);
    });
}

// ---- Patches of 4x4 pixels with stride 2 and padding 1, as rows of 16 x channels.

template <class E>
void patches(const Image& image, E* out, int threads) {
  const long down = image.rows / 2, across = image.columns / 2, channels = image.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < image.n; ++n)
    for (long i = 0; i < down; ++i)
      for (long j = 0; j < across; ++j)
        for (int k = 0; k < 16; ++k) {
          E* to = out + (((n * down + i) * across + j) * 16 + k) * channels;
          const E* from = pixel<E>(image, n, 2 * i - 1 + k / 4, 2 * j - 1 + k % 4);
          if (channels == 1) {
            *to = from ? *from : E{};
          } else if (from) {
            std::memcpy(to, from, channels * sizeof(E));
          } else {
            std::memset(to, 0, channels * sizeof(E));
          }
        }
}

// The adjoint: every pixel is in at most 2 x 2 patches.
template <class E>
void fold(const E* in, const Image& image, int threads) {
  const long down = image.rows / 2, across = image.columns / 2, channels = image.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < image.n; ++n)
    for (long row = 0; row < image.rows; ++row)
      for (long column = 0; column < image.columns; ++column) {
        const E* from[4];
        for (int k = 0; k < 4; ++k) {
          const long i = (row + 1) / 2 - k / 2, j = (column + 1) / 2 - k % 2;
          const long place = (row + 1 - 2 * i) * 4 + column + 1 - 2 * j;
          const bool is_patch = i >= 0 && j >= 0 && i < down && j < across;
          from[k] =
              is_patch ? in + (((n * down + i) * across + j) * 16 + place) * channels : nullptr;
        }
        E* to = pixel<E>(image, n, row, column);
        each(channels, [&](long c, auto zero) {
          auto sum = zero;
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k)
            if (from[k]) sum += load<decltype(zero)>(from[k] + c);
          store(to + c, sum);
        });
      }
}

// ---- Instance norm with scale and offset, and leaky ReLU after it: what is below zero times slope.

// Sums are taken over chunks of as many pixels, whatever the number of threads.
constexpr long kChunk = 256;

// Sizes and places that all parts of a norm share. `partial` holds two sums of every chunk,
// (n, chunks, 2, channels); `statistics` means (n, channels) and then inverse deviations.
struct Norm {
  long n, pixels, channels;
  const float *weight, *bias;
  float slope;
  float *statistics, *partial;
  int threads;

  long chunks() const { return (pixels + kChunk - 1) / kChunk; }
  float* sums(long i, long chunk) const { return partial + (i * chunks() + chunk) * 2 * channels; }
  float* mean(long i) const { return statistics + i * channels; }
  float* inverse(long i) const { return statistics + (n + i) * channels; }
};

// How many rows of `kLanes` channels are taken along the pixels together.
template <int kCount>
using Count = std::integral_constant<int, kCount>;

// Calls body(image, chunk, first pixel, last pixel, first channel, zero, count) for everything.
template <class Body>
void by_chunks(const Norm& over, Body body) {
  const long channels = over.channels;
  const int threads = over.threads;
  IN_PARALLEL(2)
  for (long i = 0; i < over.n; ++i)
    for (long k = 0; k < over.chunks(); ++k) {
      const long first = i * over.pixels + k * kChunk, end = (i + 1) * over.pixels;
      const long last = first + kChunk < end ? first + kChunk : end;
      long c = 0;
      for (; c + 4 * kLanes <= channels; c += 4 * kLanes)
        body(i, k, first, last, c, Lanes{}, Count<4>{});
      for (; c + kLanes <= channels; c += kLanes) body(i, k, first, last, c, Lanes{}, Count<1>{});
      for (; c < channels; ++c) body(i, k, first, last, c, float{}, Count<1>{});
    }
}

// Calls body(image, channel, first sum, second sum), the sums of all chunks.
template <class Body>
void by_channels(const Norm& over, Body body) {
  const int threads = over.threads;
  IN_PARALLEL(2)
  for (long i = 0; i < over.n; ++i)
    for (long c = 0; c < over.channels; ++c) {
      double first = 0, second = 0;
      for (long k = 0; k < over.chunks(); ++k)
        first += over.sums(i, k)[c], second += over.sums(i, k)[over.channels + c];
      body(i, c, first, second);
    }
}

// Variances are of differences from the first pixel, so that no large numbers cancel.
template <class E>
void norm(const Norm& over, const E* x, float eps, E* y) {
  const long channels = over.channels, pixels = over.pixels;
  by_chunks(over, [&](long i, long k, long first, long last, long c, auto zero, auto count) {
    using V = decltype(zero);
    constexpr int kCount = decltype(count)::value;
    V shift[kCount], sum[kCount] = {}, squares[kCount] = {};
    for (int m = 0; m < kCount; ++m)
      shift[m] = load<V>(x + i * pixels * channels + c + m * kLanes);
    for (long p = first; p < last; ++p)
#pragma GCC unroll 4
      for (int m = 0; m < kCount; ++m) {
        const V d = load<V>(x + p * channels + c + m * kLanes) - shift[m];
        sum[m] += d, squares[m] += d * d;
      }
    for (int m = 0; m < kCount; ++m) {
      store(over.sums(i, k) + c + m * kLanes, sum[m]);
      store(over.sums(i, k) + channels + c + m * kLanes, squares[m]);
    }
  });
  by_channels(over, [&](long i, long c, double sum, double squares) {
    const double mean = sum / pixels, variance = squares / pixels - mean * mean;
    over.mean(i)[c] = load<float>(x + i * pixels * channels + c) + mean;
    over.inverse(i)[c] = 1 / __builtin_sqrt((variance > 0 ? variance : 0) + eps);
  });
  by_chunks(over, [&](long i, long, long first, long last, long c, auto zero, auto count) {
    using V = decltype(zero);
    constexpr int kCount = decltype(count)::value;
    V scale[kCount], mean[kCount], offset[kCount];
    for (int m = 0; m < kCount; ++m) {
      const long at = c + m * kLanes;
      scale[m] = load<V>(over.inverse(i) + at) * load<V>(over.weight + at);
      mean[m] = load<V>(over.mean(i) + at), offset[m] = load<V>(over.bias + at);
    }
    for (long p = first; p < last; ++p)
#pragma GCC unroll 4
      for (int m = 0; m < kCount; ++m) {
        const long at = p * channels + c + m * kLanes;
        const V made = (load<V>(x + at) - mean[m]) * scale[m] + offset[m];
        store(y + at, made > 0 ? made : made * over.slope);
      }
  });
}

// `of_both`: gradients of scale and offset, (n, 2, channels). The gradient's pixels lie
// `gradient_step` numbers apart: it may be a part of a wider image.
template <class E>
void norm_backward(const Norm& over, const E* gradient, long gradient_step, const E* x, E* of_x,
                   float* of_both) {
  const long channels = over.channels;
  by_chunks(over, [&](long i, long k, long first, long last, long c, auto zero, auto count) {
    using V = decltype(zero);
    constexpr int kCount = decltype(count)::value;
    V mean[kCount], inverse[kCount], scale[kCount], offset[kCount];
    V sum[kCount] = {}, products[kCount] = {};
    for (int m = 0; m < kCount; ++m) {
      const long at = c + m * kLanes;
      mean[m] = load<V>(over.mean(i) + at), inverse[m] = load<V>(over.inverse(i) + at);
      scale[m] = load<V>(over.weight + at), offset[m] = load<V>(over.bias + at);
    }
    for (long p = first; p < last; ++p)
#pragma GCC unroll 4
      for (int m = 0; m < kCount; ++m) {
        const long at = c + m * kLanes;
        const V normed = (load<V>(x + p * channels + at) - mean[m]) * inverse[m];
        const V g = load<V>(gradient + p * gradient_step + at);
        const V passed = normed * scale[m] + offset[m] > 0 ? g : g * over.slope;
        sum[m] += passed, products[m] += passed * normed;
      }
    for (int m = 0; m < kCount; ++m) {
      store(over.sums(i, k) + c + m * kLanes, products[m]);
      store(over.sums(i, k) + channels + c + m * kLanes, sum[m]);
    }
  });
  by_channels(over, [&](long i, long c, double products, double sum) {
    of_both[2 * i * channels + c] = products;
    of_both[(2 * i + 1) * channels + c] = sum;
  });
  by_chunks(over, [&](long i, long, long first, long last, long c, auto zero, auto count) {
    using V = decltype(zero);
    constexpr int kCount = decltype(count)::value;
    const float share = 1.0f / over.pixels;
    V mean[kCount], inverse[kCount], scale[kCount], offset[kCount];
    V along[kCount], level[kCount];
    for (int m = 0; m < kCount; ++m) {
      const long at = c + m * kLanes;
      mean[m] = load<V>(over.mean(i) + at), inverse[m] = load<V>(over.inverse(i) + at);
      scale[m] = load<V>(over.weight + at), offset[m] = load<V>(over.bias + at);
      along[m] = load<V>(of_both + 2 * i * channels + at) * share;
      level[m] = load<V>(of_both + (2 * i + 1) * channels + at) * share;
    }
    for (long p = first; p < last; ++p)
#pragma GCC unroll 4
      for (int m = 0; m < kCount; ++m) {
        const long at = c + m * kLanes;
        const V normed = (load<V>(x + p * channels + at) - mean[m]) * inverse[m];
        const V g = load<V>(gradient + p * gradient_step + at);
        const V passed = normed * scale[m] + offset[m] > 0 ? g : g * over.slope;
        store(of_x + p * channels + at,
              (passed - level[m] - normed * along[m]) * (inverse[m] * scale[m]));
      }
  });
}

}  // namespace

// ---- What `passes.py` calls: every function for both kinds of numbers, both rules by name.

#define SCHEME(NAME, P, S, KIND, E)                                                               \
  void NAME##_expand_##KIND(const Image* image, long top, long left, long down, long across,      \
                            E* out, long step, int threads) {                                     \
    expand<P, S>(*image, top, left, down, across, out, step, threads);                            \
  }                                                                                               \
  void NAME##_contract_##KIND(const E* in, long step, long down, long across, const Image* image, \
                              long top, long left, int added, int threads) {                      \
    contract<P, S>(in, step, down, across, *image, top, left, added, threads);                    \
  }                                                                                               \
  void NAME##_collect_##KIND(const E* in, long step, long down, long across,                      \
                             const Image* result, int threads) {                                  \
    collect<P>(in, step, down, across, *result, threads);                                         \
  }                                                                                               \
  void NAME##_spread_##KIND(const Image* result, long down, long across, E* out, long step,       \
                            int threads) {                                                        \
    spread<P>(*result, down, across, out, step, threads);                                         \
  }                                                                                               \
  void NAME##_pack_##KIND(const float* weight, long channels, long features, E* out,              \
                          int threads) {                                                          \
    pack<P, S>(weight, channels, features, out, threads);                                         \
  }                                                                                               \
  void NAME##_unpack_##KIND(const E* in, long channels, long features, float* weight,             \
                            int threads) {                                                        \
    unpack<P, S>(in, channels, features, weight, threads);                                        \
  }

#define ALL(KIND, E)                                                                              \
  SCHEME(halving, 3, 2, KIND, E)                                                                  \
  SCHEME(small, 4, 1, KIND, E)                                                                    \
  void patches_##KIND(const Image* image, E* out, int threads) { patches(*image, out, threads); } \
  void fold_##KIND(const E* in, const Image* image, int threads) { fold(in, *image, threads); }   \
  void norm_##KIND(long n, long pixels, long channels, const float* weight, const float* bias,    \
                   float slope, float* statistics, float* partial, const E* x, float eps, E* y,   \
                   int threads) {                                                                 \
    norm({n, pixels, channels, weight, bias, slope, statistics, partial, threads}, x, eps, y);    \
  }                                                                                               \
  void norm_backward_##KIND(long n, long pixels, long channels, const float* weight,              \
                            const float* bias, float slope, float* statistics, float* partial,    \
                            const E* gradient, long gradient_step, const E* x, E* of_x,           \
                            float* of_both, int threads) {                                        \
    norm_backward({n, pixels, channels, weight, bias, slope, statistics, partial, threads},       \
                  gradient, gradient_step, x, of_x, of_both);                                     \
  }

extern "C" {
ALL(float32, float)
ALL(bfloat16, BFloat16)

// The digest of this file, by which `passes.py` knows that a library was built from it.
const char* digest() { return DIGEST; }
}
