// Transforms of convolutions, instance norm with activation, and Adam's step.
//
// Each makes one pass over memory (the norms two or three), whereas PyTorch's operations on whole
// arrays read and write everything several times. `algorithms.py`, `norm.py` and `optimizer.py` say
// what is computed, `library.py` calls it, and `hatch_build.py` compiles this file once for each
// instruction set.
//
// Images are (n, rows, columns, channels) with adjacent channels. Sums are float32 in every case.

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef _OPENMP
#define STRINGIFIED(x) #x
#define PRAGMA(x) _Pragma(STRINGIFIED(x))
#define IN_PARALLEL(loops) PRAGMA(omp parallel for collapse(loops) num_threads(threads))
#else
#error "OpenMP is needed, to share PyTorch's threads"
#endif

namespace {

// ---- Numbers: sixteen channels at a time, then the remaining ones one by one.

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

// Rounds to nearest, ties to even. A bfloat16 is the upper half of a float; a carry into the
// exponent is correct. NaNs stay NaNs, except those with all lower bits set, which no operation
// produces.
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

// Calls body(c, zero) for all channels; the type of `zero` holds the channels from c on.
template <class Body>
inline __attribute__((always_inline)) void each(long channels, Body body) {
  long c = 0;
  for (; c + kLanes <= channels; c += kLanes) body(c, Lanes{});
  for (; c < channels; ++c) body(c, float{});
}

// ---- Images

struct Image {
  void* data;
  long n, rows, columns, channels, image_stride, row_stride, column_stride;  // in elements
};

// The address of a pixel's first channel; null outside the image.
template <class E>
E* pixel(const Image& image, long n, long row, long column) {
  if (row < 0 || column < 0 || row >= image.rows || column >= image.columns) return nullptr;
  return static_cast<E*>(image.data) + n * image.image_stride + row * image.row_stride +
         column * image.column_stride;
}

// ---- Winograd's F(R, T) along one axis: R adjacent outputs of a filter with T taps from R + T - 1
// products of the transformed input and the transformed filter.

// Winograd 1980: y0 = (d0 - d1) g0 + d1 (g0 + g1), y1 = (d2 - d1) g1 + d1 (g0 + g1).
struct F22 {
  static constexpr int kOutputs = 2, kTaps = 2, kProducts = 3;
  template <class V>
  static void input(const V* d, V* x) {
    x[0] = d[0] - d[1], x[1] = d[1], x[2] = d[2] - d[1];
  }
  template <class V>
  static void input_adjoint(const V* x, V* d) {
    d[0] = x[0], d[1] = x[1] - x[0] - x[2], d[2] = x[2];
  }
  template <class V>
  static void output(const V* x, V* y) {
    y[0] = x[0] + x[1], y[1] = x[1] + x[2];
  }
  template <class V>
  static void output_adjoint(const V* y, V* x) {
    x[0] = y[0], x[1] = y[0] + y[1], x[2] = y[1];
  }
  template <class V>
  static void filter(const V* g, V* u) {
    u[0] = g[0], u[1] = g[0] + g[1], u[2] = g[1];
  }
  template <class V>
  static void filter_adjoint(const V* u, V* g) {
    g[0] = u[0] + u[1], g[1] = u[1] + u[2];
  }
};

// Lavin and Gray 2016 (arXiv:1509.09308), section 4.1: F(2, 3). Polynomials are multiplied at the
// points 0, 1, -1 and infinity; the only constants, halves, are in the filter transform.
struct FourPoints {
  static constexpr int kProducts = 4;
  template <class V>
  static void input(const V* d, V* x) {
    x[0] = d[0] - d[2], x[1] = d[1] + d[2], x[2] = d[2] - d[1], x[3] = d[1] - d[3];
  }
  template <class V>
  static void input_adjoint(const V* x, V* d) {
    d[0] = x[0], d[1] = x[1] - x[2] + x[3], d[2] = x[1] + x[2] - x[0], d[3] = -x[3];
  }
};

struct F23 : FourPoints {
  static constexpr int kOutputs = 2, kTaps = 3;
  template <class V>
  static void output(const V* x, V* y) {
    y[0] = x[0] + x[1] + x[2], y[1] = x[1] - x[2] - x[3];
  }
  template <class V>
  static void output_adjoint(const V* y, V* x) {
    x[0] = y[0], x[1] = y[0] + y[1], x[2] = y[0] - y[1], x[3] = -y[1];
  }
  template <class V>
  static void filter(const V* g, V* u) {
    const V outer = (g[0] + g[2]) * 0.5f, inner = g[1] * 0.5f;
    u[0] = g[0], u[1] = outer + inner, u[2] = outer - inner, u[3] = g[2];
  }
  template <class V>
  static void filter_adjoint(const V* u, V* g) {
    const V outer = (u[1] + u[2]) * 0.5f;
    g[0] = u[0] + outer, g[1] = (u[1] - u[2]) * 0.5f, g[2] = outer + u[3];
  }
};

// F(3, 2), at the same points.
struct F32 : FourPoints {
  static constexpr int kOutputs = 3, kTaps = 2;
  template <class V>
  static void output(const V* x, V* y) {
    y[0] = x[0] + x[1] + x[2], y[1] = x[1] - x[2], y[2] = x[1] + x[2] - x[3];
  }
  template <class V>
  static void output_adjoint(const V* y, V* x) {
    x[0] = y[0], x[1] = y[0] + y[1] + y[2], x[2] = y[0] - y[1] + y[2], x[3] = -y[2];
  }
  template <class V>
  static void filter(const V* g, V* u) {
    u[0] = g[0], u[1] = (g[0] + g[1]) * 0.5f, u[2] = (g[0] - g[1]) * 0.5f, u[3] = g[1];
  }
  template <class V>
  static void filter_adjoint(const V* u, V* g) {
    g[0] = u[0] + (u[1] + u[2]) * 0.5f, g[1] = u[3] + (u[1] - u[2]) * 0.5f;
  }
};

// A transform along columns, then along rows: `in` is A x A, `out` is B x B.
#define ALONG_BOTH(NAME, A, B)                                                           \
  template <class Rule, class V>                                                         \
  inline void NAME##_2d(const V* in, V* out) {                                           \
    V half[(A) * (B)];                                                                   \
    _Pragma("GCC unroll 4") for (int i = 0; i < (A); ++i)                                \
        Rule::NAME(in + i * (A), half + i * (B));                                        \
    _Pragma("GCC unroll 4") for (int j = 0; j < (B); ++j) {                              \
      V from[A], to[B];                                                                  \
      _Pragma("GCC unroll 4") for (int i = 0; i < (A); ++i) from[i] = half[i * (B) + j]; \
      Rule::NAME(from, to);                                                              \
      _Pragma("GCC unroll 4") for (int i = 0; i < (B); ++i) out[i * (B) + j] = to[i];    \
    }                                                                                    \
  }
ALONG_BOTH(input, Rule::kProducts, Rule::kProducts)
ALONG_BOTH(output, Rule::kProducts, Rule::kOutputs)
ALONG_BOTH(output_adjoint, Rule::kOutputs, Rule::kProducts)
ALONG_BOTH(filter, Rule::kTaps, Rule::kProducts)
ALONG_BOTH(filter_adjoint, Rule::kProducts, Rule::kTaps)

// ---- Transforms of F(R x R, T x T) with P = R + T - 1, after space-to-depth of S x S pixels.
//
// Tile (i, j) reads P x P cells (of S x S pixels) from cell (R i, R j) on and yields R x R outputs.
// The P x P matrices are `step` elements apart; a row of one holds a tile's S x S x channels
// (input) or features (output).

template <class Rule, int S, class E>
void input_transform(const Image& image, long top, long left, long tiles_down, long tiles_across,
                     E* out, long step, int threads) {
  constexpr int P = Rule::kProducts, R = Rule::kOutputs;
  const long channels = image.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < image.n; ++n)
    for (long i = 0; i < tiles_down; ++i)
      for (long j = 0; j < tiles_across; ++j)
        for (int phase = 0; phase < S * S; ++phase) {
          const E* from[P * P];
          bool inside = true;
          for (int k = 0; k < P * P; ++k) {
            from[k] = pixel<E>(image, n, top + (R * i + k / P) * S + phase / S,
                               left + (R * j + k % P) * S + phase % S);
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
              input_2d<Rule>(d, x);
#pragma GCC unroll 16
              for (int k = 0; k < P * P; ++k) store(to + k * step + c, x[k]);
            });
          };
          inside ? map(std::true_type{}) : map(std::false_type{});
        }
}

// Each group of R x R cells sums what four tiles contribute: the tile that begins there and its
// neighbours above and to the left, whose last P - R cells overlap it.
template <class Rule, int S, class E>
void input_adjoint(const E* in, long step, long tiles_down, long tiles_across, const Image& image,
                   long top, long left, int added, int threads) {
  constexpr int P = Rule::kProducts, R = Rule::kOutputs;
  static_assert(P <= 2 * R);
  const long channels = image.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < image.n; ++n)
    for (long i = 0; i <= tiles_down; ++i)
      for (long j = 0; j <= tiles_across; ++j)
        for (int phase = 0; phase < S * S; ++phase) {
          const E* from[2][2];
          for (int a = 0; a < 2; ++a)
            for (int b = 0; b < 2; ++b) {
              const long down = i - a, across = j - b;
              const bool is_tile =
                  down >= 0 && across >= 0 && down < tiles_down && across < tiles_across;
              from[a][b] =
                  is_tile
                      ? in + (((n * tiles_down + down) * tiles_across + across) * S * S + phase) *
                                 channels
                      : nullptr;
            }
          E* to[R * R];
          for (int k = 0; k < R * R; ++k)
            to[k] = pixel<E>(image, n, top + (R * i + k / R) * S + phase / S,
                             left + (R * j + k % R) * S + phase % S);
          each(channels, [&](long c, auto zero) {
            using V = decltype(zero);
            V sum[R * R] = {};
#pragma GCC unroll 2
            for (int a = 0; a < 2; ++a)
#pragma GCC unroll 2
              for (int b = 0; b < 2; ++b) {
                if (!from[a][b]) continue;
                V half[R][P];
#pragma GCC unroll 4
                for (int q = 0; q < P; ++q) {
                  V x[P], d[2 * R] = {};
#pragma GCC unroll 4
                  for (int p = 0; p < P; ++p) x[p] = load<V>(from[a][b] + (p * P + q) * step + c);
                  Rule::input_adjoint(x, d);
#pragma GCC unroll 4
                  for (int u = 0; u < R; ++u) half[u][q] = d[R * a + u];
                }
#pragma GCC unroll 4
                for (int u = 0; u < R; ++u) {
                  V d[2 * R] = {};
                  Rule::input_adjoint(half[u], d);
#pragma GCC unroll 4
                  for (int v = 0; v < R; ++v) sum[u * R + v] += d[R * b + v];
                }
              }
#pragma GCC unroll 9
            for (int k = 0; k < R * R; ++k) {
              if (!to[k]) continue;
              if (added) sum[k] += load<V>(to[k] + c);
              store(to[k] + c, sum[k]);
            }
          });
        }
}

template <class Rule, class E>
void output_transform(const E* in, long step, long tiles_down, long tiles_across,
                      const Image& output, int threads) {
  constexpr int P = Rule::kProducts, R = Rule::kOutputs;
  const long channels = output.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < output.n; ++n)
    for (long i = 0; i < tiles_down; ++i)
      for (long j = 0; j < tiles_across; ++j) {
        E* to[R * R];
        for (int k = 0; k < R * R; ++k) to[k] = pixel<E>(output, n, R * i + k / R, R * j + k % R);
        const E* from = in + ((n * tiles_down + i) * tiles_across + j) * channels;
        each(channels, [&](long c, auto zero) {
          using V = decltype(zero);
          V x[P * P], y[R * R];
#pragma GCC unroll 16
          for (int k = 0; k < P * P; ++k) x[k] = load<V>(from + k * step + c);
          output_2d<Rule>(x, y);
#pragma GCC unroll 9
          for (int k = 0; k < R * R; ++k)
            if (to[k]) store(to[k] + c, y[k]);
        });
      }
}

template <class Rule, class E>
void output_adjoint(const Image& output, long tiles_down, long tiles_across, E* out, long step,
                    int threads) {
  constexpr int P = Rule::kProducts, R = Rule::kOutputs;
  const long channels = output.channels;
  IN_PARALLEL(2)
  for (long n = 0; n < output.n; ++n)
    for (long i = 0; i < tiles_down; ++i)
      for (long j = 0; j < tiles_across; ++j) {
        const E* from[R * R];
        for (int k = 0; k < R * R; ++k) from[k] = pixel<E>(output, n, R * i + k / R, R * j + k % R);
        E* to = out + ((n * tiles_down + i) * tiles_across + j) * channels;
        each(channels, [&](long c, auto zero) {
          using V = decltype(zero);
          V y[R * R], x[P * P];
#pragma GCC unroll 9
          for (int k = 0; k < R * R; ++k) y[k] = from[k] ? load<V>(from[k] + c) : zero;
          output_adjoint_2d<Rule>(y, x);
#pragma GCC unroll 16
          for (int k = 0; k < P * P; ++k) store(to + k * step + c, x[k]);
        });
      }
}

// The filter, (S x taps, S x taps, channels, features) in float32, and its matrices (products,
// rows, features); a row is a pixel of a cell and a channel.

template <class Rule, int S>
long tap(int k, long row, long channels) {
  constexpr int T = Rule::kTaps;
  const long phase = row / channels, c = row % channels;
  return ((k / T * S + phase / S) * T * S + k % T * S + phase % S) * channels + c;
}

template <class Rule, int S, class E>
void filter_transform(const float* weight, long channels, long features, E* out, int threads) {
  constexpr int P = Rule::kProducts, T = Rule::kTaps;
  const long rows = S * S * channels;
  IN_PARALLEL(1)
  for (long row = 0; row < rows; ++row)
    each(features, [&](long f, auto zero) {
      using V = decltype(zero);
      V g[T * T], u[P * P];
#pragma GCC unroll 9
      for (int k = 0; k < T * T; ++k)
        g[k] = load<V>(weight + tap<Rule, S>(k, row, channels) * features + f);
      filter_2d<Rule>(g, u);
#pragma GCC unroll 16
      for (int k = 0; k < P * P; ++k) store(out + (k * rows + row) * features + f, u[k]);
    });
}

template <class Rule, int S, class E>
void filter_adjoint(const E* in, long channels, long features, float* weight, int threads) {
  constexpr int P = Rule::kProducts, T = Rule::kTaps;
  const long rows = S * S * channels;
  IN_PARALLEL(1)
  for (long row = 0; row < rows; ++row)
    each(features, [&](long f, auto zero) {
      using V = decltype(zero);
      V u[P * P], g[T * T];
#pragma GCC unroll 16
      for (int k = 0; k < P * P; ++k) u[k] = load<V>(in + (k * rows + row) * features + f);
      filter_adjoint_2d<Rule>(u, g);
#pragma GCC unroll 9
      for (int k = 0; k < T * T; ++k)
        store(weight + tap<Rule, S>(k, row, channels) * features + f, g[k]);
    });
}

// ---- im2col for 4x4 filters with stride 2 and padding 1: patches as rows of 16 x channels.

template <class E>
void im2col(const Image& image, E* out, int threads) {
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

// The adjoint: each pixel is in at most 2 x 2 patches.
template <class E>
void col2im(const E* in, const Image& image, int threads) {
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

// ---- kn2row: outputs of a filter with stride 1 from the products of each pixel and each tap.
//
// Products are (n, rows, columns, taps, taps, features). The output at (i, j) is the sum of tap
// (a, b) at pixel (i + a - before, j + b - before) over all taps. Outside the image, products are
// zero or those of the reflected pixel.

struct Taps {
  long taps, before;
  bool reflects;
  long rows, columns;  // of the image

  // Whether neither outputs nor pixels around here involve the padding.
  bool is_inside(long row, long column) const {
    const long far = taps - 1;
    return row >= far && column >= far && row < rows - far && column < columns - far;
  }

  // The pixel whose value appears at a place; -1 for zero padding.
  long pixel_at(long place, long size) const {
    if (place >= 0 && place < size) return place;
    if (!reflects) return -1;
    return place < 0 ? -place : 2 * (size - 1) - place;
  }

  // The outputs to which a tap brings a pixel: their number, at most three, and which.
  int outputs_of(long pixel, long tap, long size, long outputs, long* found) const {
    int count = 0;
    const auto add = [&](long place) {
      const long output = place + before - tap;
      if (output >= 0 && output < outputs) found[count++] = output;
    };
    add(pixel);
    if (reflects && pixel > 0) add(-pixel);
    if (reflects && pixel < size - 1) add(2 * (size - 1) - pixel);
    return count;
  }
};

template <class E>
void kn2row(const E* in, const Taps& by, const Image& output, int threads) {
  const long features = output.channels, taps = by.taps;
  IN_PARALLEL(2)
  for (long n = 0; n < output.n; ++n)
    for (long i = 0; i < output.rows; ++i)
      for (long j = 0; j < output.columns; ++j)
        for (long f = 0; f < features; ++f) {
          const bool inside = by.is_inside(i, j);
          float sum = 0;
          for (long a = 0; a < taps; ++a)
            for (long b = 0; b < taps; ++b) {
              long row = i + a - by.before, column = j + b - by.before;
              if (!inside) {
                row = by.pixel_at(row, by.rows), column = by.pixel_at(column, by.columns);
                if (row < 0 || column < 0) continue;
              }
              const long at = (n * by.rows + row) * by.columns + column;
              sum += load<float>(in + ((at * taps + a) * taps + b) * features + f);
            }
          store(pixel<E>(output, n, i, j) + f, sum);
        }
}

// The adjoint of `kn2row`.
template <class E>
void kn2row_adjoint(const Image& output, const Taps& by, E* out, int threads) {
  const long features = output.channels, taps = by.taps;
  IN_PARALLEL(2)
  for (long n = 0; n < output.n; ++n)
    for (long row = 0; row < by.rows; ++row)
      for (long column = 0; column < by.columns; ++column) {
        const bool inside = by.is_inside(row, column);
        E* to = out + ((n * by.rows + row) * by.columns + column) * taps * taps * features;
        for (long a = 0; a < taps; ++a)
          for (long b = 0; b < taps; ++b, to += features) {
            if (inside) {
              const E* from = pixel<E>(output, n, row + by.before - a, column + by.before - b);
              for (long f = 0; f < features; ++f) to[f] = from[f];
              continue;
            }
            long down[3], across[3];
            const int downs = by.outputs_of(row, a, by.rows, output.rows, down);
            const int acrosses = by.outputs_of(column, b, by.columns, output.columns, across);
            for (long f = 0; f < features; ++f) {
              float sum = 0;
              for (int d = 0; d < downs; ++d)
                for (int c = 0; c < acrosses; ++c)
                  sum += load<float>(pixel<E>(output, n, down[d], across[c]) + f);
              store(to + f, sum);
            }
          }
      }
}

// ---- Instance norm with scale and offset, then leaky ReLU.

// Sums are taken over chunks of this many pixels, so that they do not depend on the threads.
constexpr long kChunk = 256;

// What forward and backward share. `partial` holds two sums of each chunk, (n, chunks, 2,
// channels); `statistics` the means, (n, channels), then the inverse standard deviations.
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

// How many groups of `kLanes` channels are processed together.
template <int kCount>
using Count = std::integral_constant<int, kCount>;

// Calls body(image, chunk, first pixel, end, first channel, zero, count) for all chunks and
// channels.
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

// Calls body(image, channel, first sum, second sum) with the sums over all chunks.
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

// Variances are those of differences from the first pixel, so that no large numbers cancel.
template <class E>
void norm(const Norm& over, const E* x, float eps, E* y) {
  const long channels = over.channels, pixels = over.pixels;
  by_chunks(over, [&](long i, long k, long first, long last, long c, auto zero, auto count) {
    using V = decltype(zero);
    constexpr int kCount = decltype(count)::value;
    V shift[kCount], sum[kCount] = {}, squares[kCount] = {};
    for (int m = 0; m < kCount; ++m) shift[m] = load<V>(x + i * pixels * channels + c + m * kLanes);
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

// `of_parameters`: gradients of scale and offset, (n, 2, channels). The gradient's pixels are
// `gradient_stride` elements apart: it may be a view of an image with more channels.
template <class E>
void norm_backward(const Norm& over, const E* gradient, long gradient_stride, const E* x, E* of_x,
                   float* of_parameters) {
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
        const V g = load<V>(gradient + p * gradient_stride + at);
        const V passed = normed * scale[m] + offset[m] > 0 ? g : g * over.slope;
        sum[m] += passed, products[m] += passed * normed;
      }
    for (int m = 0; m < kCount; ++m) {
      store(over.sums(i, k) + c + m * kLanes, products[m]);
      store(over.sums(i, k) + channels + c + m * kLanes, sum[m]);
    }
  });
  by_channels(over, [&](long i, long c, double products, double sum) {
    of_parameters[2 * i * channels + c] = products;
    of_parameters[(2 * i + 1) * channels + c] = sum;
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
      along[m] = load<V>(of_parameters + 2 * i * channels + at) * share;
      level[m] = load<V>(of_parameters + (2 * i + 1) * channels + at) * share;
    }
    for (long p = first; p < last; ++p)
#pragma GCC unroll 4
      for (int m = 0; m < kCount; ++m) {
        const long at = c + m * kLanes;
        const V normed = (load<V>(x + p * channels + at) - mean[m]) * inverse[m];
        const V g = load<V>(gradient + p * gradient_stride + at);
        const V passed = normed * scale[m] + offset[m] > 0 ? g : g * over.slope;
        store(of_x + p * channels + at,
              (passed - level[m] - normed * along[m]) * (inverse[m] * scale[m]));
      }
  });
}

// ---- Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1), for gradients of either type.

struct Adam {
  float rate, beta1, beta2, eps;  // the learning rate is divided by 1 - beta1^t in step t
  float correction;               // the square root of 1 - beta2^t
};

template <class E>
void adam(const Adam& with, long count, const E* gradient, float* weights, float* first,
          float* second, int threads) {
  constexpr long kBlock = 4096;
  IN_PARALLEL(1)
  for (long begin = 0; begin < count; begin += kBlock) {
    const long end = begin + kBlock < count ? begin + kBlock : count;
    for (long k = begin; k < end; ++k) {
      const float g = load<float>(gradient + k);
      const float mean = first[k] + (1 - with.beta1) * (g - first[k]);
      const float square = second[k] * with.beta2 + (1 - with.beta2) * g * g;
      first[k] = mean, second[k] = square;
      weights[k] -= with.rate * mean / (__builtin_sqrtf(square) / with.correction + with.eps);
    }
  }
}

}  // namespace

// ---- What `library.py` calls: each function for both types.

#define WINOGRAD(NAME, RULE, S, KIND, E)                                                         \
  void NAME##_input_transform_##KIND(const Image* image, long top, long left, long down,         \
                                     long across, E* out, long step, int threads) {              \
    input_transform<RULE, S>(*image, top, left, down, across, out, step, threads);               \
  }                                                                                              \
  void NAME##_input_adjoint_##KIND(const E* in, long step, long down, long across,               \
                                   const Image* image, long top, long left, int added,           \
                                   int threads) {                                                \
    input_adjoint<RULE, S>(in, step, down, across, *image, top, left, added, threads);           \
  }                                                                                              \
  void NAME##_output_transform_##KIND(const E* in, long step, long down, long across,            \
                                      const Image* output, int threads) {                        \
    output_transform<RULE>(in, step, down, across, *output, threads);                            \
  }                                                                                              \
  void NAME##_output_adjoint_##KIND(const Image* output, long down, long across, E* out,         \
                                    long step, int threads) {                                    \
    output_adjoint<RULE>(*output, down, across, out, step, threads);                             \
  }                                                                                              \
  void NAME##_filter_transform_##KIND(const float* weight, long channels, long features, E* out, \
                                      int threads) {                                             \
    filter_transform<RULE, S>(weight, channels, features, out, threads);                         \
  }                                                                                              \
  void NAME##_filter_adjoint_##KIND(const E* in, long channels, long features, float* weight,    \
                                    int threads) {                                               \
    filter_adjoint<RULE, S>(in, channels, features, weight, threads);                            \
  }

#define ALL(KIND, E)                                                                               \
  WINOGRAD(winograd_f22, F22, 2, KIND, E)                                                          \
  WINOGRAD(winograd_f32, F32, 2, KIND, E)                                                          \
  WINOGRAD(winograd_f23, F23, 1, KIND, E)                                                          \
  void im2col_##KIND(const Image* image, E* out, int threads) { im2col(*image, out, threads); }    \
  void col2im_##KIND(const E* in, const Image* image, int threads) {                               \
    col2im(in, *image, threads);                                                                   \
  }                                                                                                \
  void kn2row_##KIND(const E* in, long taps, long before, int reflects, long rows, long columns,   \
                     const Image* output, int threads) {                                           \
    kn2row(in, {taps, before, reflects != 0, rows, columns}, *output, threads);                    \
  }                                                                                                \
  void kn2row_adjoint_##KIND(const Image* output, long taps, long before, int reflects, long rows, \
                             long columns, E* out, int threads) {                                  \
    kn2row_adjoint(*output, {taps, before, reflects != 0, rows, columns}, out, threads);           \
  }                                                                                                \
  void norm_##KIND(long n, long pixels, long channels, const float* weight, const float* bias,     \
                   float slope, float* statistics, float* partial, const E* x, float eps, E* y,    \
                   int threads) {                                                                  \
    norm({n, pixels, channels, weight, bias, slope, statistics, partial, threads}, x, eps, y);     \
  }                                                                                                \
  void norm_backward_##KIND(long n, long pixels, long channels, const float* weight,               \
                            const float* bias, float slope, float* statistics, float* partial,     \
                            const E* gradient, long gradient_stride, const E* x, E* of_x,          \
                            float* of_parameters, int threads) {                                   \
    norm_backward({n, pixels, channels, weight, bias, slope, statistics, partial, threads},        \
                  gradient, gradient_stride, x, of_x, of_parameters);                              \
  }                                                                                                \
  void adam_##KIND(float rate, float beta1, float beta2, float eps, float correction, long count,  \
                   const E* gradient, float* weights, float* first, float* second, int threads) {  \
    adam({rate, beta1, beta2, eps, correction}, count, gradient, weights, first, second, threads); \
  }

extern "C" {
ALL(float32, float)
ALL(bfloat16, BFloat16)

// The SHA-256 of this file: `library.py` uses only a library that was built from it.
const char* digest() { return DIGEST; }
}
