// Every kernel but attention, against float64: LayerNorm and embedding over rows, GELU, GeGLU, cross-entropy, sums, AdamW.
#include "adamw.cu"
#include "column_sums.cu"
#include "cross_entropy.cu"
#include "embedding.cu"
#include "geglu.cu"
#include "gelu.cu"
#include "layer_norm.cu"
#include "table_gradient.cu"

#include "check.h"

using namespace check;

// Of an element of a matrix.
static double expected_factor(const Dropout& d, u64 element) { return d.threshold == 0 ? 1 : kept(d, element / 8, element % 8) ? d.scale : 0; }

// Tensors of the residual stream's type.
typedef std::vector<stream, Aligned<stream>> Stream;
static Stream normal_stream(size_t n) {
  Stream out(n);
  const Half drawn = normal_half(n);
  for (size_t i = 0; i < n; i++) out[i] = sizeof(stream) == 2 ? (stream)drawn[i] : (stream)value(drawn[i]);
  return out;
}
static Stream unwritten_stream(size_t n) { return Stream(n, sizeof(stream) == 2 ? (stream)0x7fff : (stream)NAN); }

static void test_dropout() {
  const Dropout a = dropout(0.1, 3), b = dropout(0.1, 4);
  int dropped = 0, equal = 0;
  const int n = 1 << 16;
  for (int i = 0; i < n; i++) dropped += expected_factor(a, i) == 0, equal += expected_factor(a, i) == expected_factor(b, i);
  that("dropout drops one in ten", std::abs(dropped - 0.1 * n) < 4 * std::sqrt(0.09 * n));
  that("two streams of dropout are independent", std::abs(equal - 0.82 * n) < 4 * std::sqrt(0.1476 * n));
}

static void test_geglu(int rows, int width, double p) {
  const Dropout d = dropout(p, 7);
  Half h = normal_half((size_t)rows * 2 * width, 2.0), d_y = normal_half((size_t)rows * width), y = unwritten_half((size_t)rows * width);
  Half d_h = h;  // in place
  emulator::launch({2, 1, 1}, 256, 0, [&] { geglu_forward({h.data(), y.data(), rows, width, d}); });
  emulator::launch({2, 1, 1}, 256, 0, [&] { geglu_backward({d_h.data(), d_y.data(), d_h.data(), rows, width, d}); });
  Error forward, backward;
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < width; c++) {
      const size_t at = (size_t)r * 2 * width + c, i = (size_t)r * width + c;
      const double x = value(h[at]), l = value(h[at + width]), f = expected_factor(d, i), g = value(d_y[i]) * f;
      const double cdf = 0.5 * std::erfc(-x / std::sqrt(2.0)), density = std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
      forward.add(value(y[i]), x * cdf * l * f);
      backward.add(value(d_h[at]), g * l * (cdf + x * density));
      backward.add(value(d_h[at + width]), g * x * cdf);
    }
  under("geglu forward", forward, 3e-3);
  under("geglu backward", backward, 3e-3);
}

static void test_gelu(size_t n) {
  Half x = normal_half(n, 2.0), d_y = normal_half(n), y = unwritten_half(n), d_x = d_y;  // the gradient in place
  emulator::launch({2, 1, 1}, 256, 0, [&] { gelu_forward({x.data(), y.data(), (long long)n}); });
  emulator::launch({2, 1, 1}, 256, 0, [&] { gelu_backward({x.data(), d_x.data(), d_x.data(), (long long)n}); });
  Error forward, backward;
  for (size_t i = 0; i < n; i++) {
    const double v = value(x[i]), cdf = 0.5 * std::erfc(-v / std::sqrt(2.0)), density = std::exp(-v * v / 2) / std::sqrt(2 * M_PI);
    forward.add(value(y[i]), v * cdf);
    backward.add(value(d_x[i]), value(d_y[i]) * (cdf + v * density));
  }
  under("gelu forward", forward, 3e-3);
  under("gelu backward", backward, 3e-3);
}

struct RowReference {  // LayerNorm of one row, and its backward pass
  double mean = 0, inverse = 0;
  RowReference(const std::vector<double>& z, double epsilon) {
    double variance = 0;
    for (double v : z) mean += v / z.size();
    for (double v : z) variance += (v - mean) * (v - mean) / z.size();
    inverse = 1 / std::sqrt(variance + epsilon);
  }
  std::vector<double> backward(const std::vector<double>& z, const std::vector<double>& d_y, const Single& gamma) const {
    double mean_d = 0, mean_dx = 0;
    const size_t n = z.size();
    for (size_t c = 0; c < n; c++) mean_d += d_y[c] * gamma[c] / n, mean_dx += d_y[c] * gamma[c] * (z[c] - mean) * inverse / n;
    std::vector<double> d(n);
    for (size_t c = 0; c < n; c++) d[c] = inverse * (d_y[c] * gamma[c] - mean_d - (z[c] - mean) * inverse * mean_dx);
    return d;
  }
};

// Reduces partial sums with the kernel that does so on the card, onto vectors that already hold something; the last sum is
// wanted by itself, too.
static void check_sums(const std::string& what, Single& partial, int blocks, const std::vector<double> (&expected)[3]) {
  Single sums[3], alone = unwritten_single(HIDDEN);
  AddColumnSums add{{}, HIDDEN};
  for (int part = 0; part < 3; part++) {
    sums[part] = Single(HIDDEN, 0.5f);
    add.sums[part] = {partial.data() + part * HIDDEN, nullptr, sums[part].data(), part == 2 ? alone.data() : nullptr, blocks, 3 * HIDDEN, 0};
  }
  emulator::launch({(HIDDEN + 31) / 32, 3, 1}, 32 * SUM_WARPS, 4 * 32 * SUM_WARPS, [&] { add_column_sums(add); });
  const char* names[3] = {" sums for gamma", " sums for beta", " sums for what is added"};
  Error by_itself;
  for (int part = 0; part < 3; part++) {
    Error error;
    for (int c = 0; c < HIDDEN; c++) error.add(sums[part][c] - 0.5, expected[part][c]);
    under(what + names[part], error, 3e-3);
  }
  for (int c = 0; c < HIDDEN; c++) by_itself.add(alone[c], expected[2][c]);
  under(what + " sum by itself", by_itself, 3e-3);
}

static void test_layer_norm(int rows, double p) {
  const size_t n = (size_t)rows * HIDDEN;
  const int blocks = 2;
  const Dropout drop = dropout(p, 9);
  Half x = normal_half(n), d_x = unwritten_half(n);
  Stream residual = normal_stream(n), d_y = normal_stream(n), y = unwritten_stream(n), d_residual = unwritten_stream(n), z = unwritten_stream(n);
  const bool apart = p > 0 || sizeof(stream) == 4;  // whether d_x is a tensor of its own
  Single bias = normal_single(HIDDEN), gamma = normal_single(HIDDEN, 1, 0.2), beta = normal_single(HIDDEN), partial = unwritten_single(3 * HIDDEN * blocks);
  std::vector<float2> statistics(rows);
  Half given = x;
  if (sizeof(stream) == 2) std::copy(x.begin(), x.end(), z.begin());  // in place
  LayerNormForward f{sizeof(stream) == 2 ? (bf16*)z.data() : given.data(), bias.data(), residual.data(), z.data(), y.data(), statistics.data(), gamma.data(), beta.data(), rows, 1e-12f, drop};
  emulator::launch({blocks, 1, 1}, 32 * ROW_WARPS, 0, [&] { layer_norm_forward(f); });
  LayerNormBackward b{z.data(), d_y.data(), statistics.data(), gamma.data(), d_residual.data(), apart ? d_x.data() : nullptr, partial.data(), rows, drop};
  emulator::launch({blocks, 1, 1}, 32 * ROW_WARPS, 12 * HIDDEN, [&] { layer_norm_backward(b); });
  Error forward, kept, to_residual, to_x;
  std::vector<double> sums[3] = {std::vector<double>(HIDDEN), std::vector<double>(HIDDEN), std::vector<double>(HIDDEN)};
  for (int r = 0; r < rows; r++) {
    std::vector<double> row(HIDDEN), d(HIDDEN);
    for (int c = 0; c < HIDDEN; c++) {
      const size_t i = (size_t)r * HIDDEN + c;
      row[c] = (value(x[i]) + bias[c]) * expected_factor(drop, i) + value(residual[i]);
      d[c] = value(d_y[i]);
    }
    const RowReference reference(row, 1e-12);
    const std::vector<double> d_z = reference.backward(row, d, gamma);
    for (int c = 0; c < HIDDEN; c++) {
      const size_t i = (size_t)r * HIDDEN + c;
      const double normal = (row[c] - reference.mean) * reference.inverse;
      forward.add(value(y[i]), normal * gamma[c] + beta[c]);
      kept.add(value(z[i]), row[c]);
      to_residual.add(value(d_residual[i]), d_z[c]);
      if (apart) to_x.add(value(d_x[i]), d_z[c] * expected_factor(drop, i));
      sums[0][c] += d[c] * normal, sums[1][c] += d[c], sums[2][c] += d_z[c] * expected_factor(drop, i);
    }
  }
  const std::string what = "layer norm" + std::string(p > 0 ? " with dropout" : "");
  under(what + " forward", forward, 3e-3);
  under(what + " sum kept", kept, 3e-3);
  under(what + " gradient of the residual", to_residual, 4e-3);
  under(what + " gradient of x", to_x, 4e-3);
  check_sums(what, partial, blocks, sums);
}

static void test_embedding(int rows, bool with_types, bool with_positions) {
  const int words_count = 11, positions_count = 5, blocks = 2;
  const size_t n = (size_t)rows * HIDDEN;
  const Dropout drop = dropout(0.1, 2);
  Half words = normal_half((size_t)words_count * HIDDEN), types = normal_half(2 * HIDDEN), positions = normal_half(positions_count * HIDDEN);
  Half d_sum = unwritten_half(n);
  Stream d_y = normal_stream(n), y = unwritten_stream(n);
  Single gamma = normal_single(HIDDEN, 1, 0.2), beta = normal_single(HIDDEN), partial = unwritten_single(3 * HIDDEN * blocks);
  std::vector<float2> statistics(rows);
  std::vector<int> ids(rows), type_of(rows), place_of(rows);
  for (int r = 0; r < rows; r++) ids[r] = (int)(check::random() % words_count), type_of[r] = with_types && r % 3 == 0, place_of[r] = r % positions_count;
  const Tables tables{ids.data(), with_types ? type_of.data() : nullptr, with_positions ? place_of.data() : nullptr, words.data(), types.data(), positions.data()};
  EmbeddingForward f{tables, y.data(), statistics.data(), gamma.data(), beta.data(), rows, 1e-12f, drop};
  emulator::launch({blocks, 1, 1}, 32 * ROW_WARPS, 0, [&] { embedding_forward(f); });
  EmbeddingBackward b{tables, d_y.data(), statistics.data(), gamma.data(), d_sum.data(), partial.data(), rows, drop};
  emulator::launch({blocks, 1, 1}, 32 * ROW_WARPS, 12 * HIDDEN, [&] { embedding_backward(b); });
  Error forward, backward;
  std::vector<double> sums[3] = {std::vector<double>(HIDDEN), std::vector<double>(HIDDEN), std::vector<double>(HIDDEN)};
  for (int r = 0; r < rows; r++) {
    std::vector<double> row(HIDDEN), d(HIDDEN);
    for (int c = 0; c < HIDDEN; c++) {
      row[c] = value(words[(size_t)ids[r] * HIDDEN + c]) + value(types[(size_t)type_of[r] * HIDDEN + c]);
      if (with_positions) row[c] += value(positions[(size_t)place_of[r] * HIDDEN + c]);
      d[c] = value(d_y[(size_t)r * HIDDEN + c]) * expected_factor(drop, (size_t)r * HIDDEN + c);
    }
    const RowReference reference(row, 1e-12);
    const std::vector<double> d_row = reference.backward(row, d, gamma);
    for (int c = 0; c < HIDDEN; c++) {
      const size_t i = (size_t)r * HIDDEN + c;
      const double normal = (row[c] - reference.mean) * reference.inverse;
      forward.add(value(y[i]), (normal * gamma[c] + beta[c]) * expected_factor(drop, i));
      backward.add(value(d_sum[i]), d_row[c]);
      sums[0][c] += d[c] * normal, sums[1][c] += d[c], sums[2][c] += d_row[c];
    }
  }
  under("embedding forward", forward, 3e-3);
  under("embedding backward", backward, 4e-3);
  check_sums("embedding", partial, blocks, sums);
}

// Ids of which one reaches over several blocks' borders, and one has no gradient.
static void test_table_gradient(int rows, int skipped) {
  const int ids_count = 40;
  const size_t n = (size_t)rows * HIDDEN;
  Half d_sum = normal_half(n);
  std::vector<int> ids(rows), sorted(rows);
  std::vector<long long> order(rows);
  for (int r = 0; r < rows; r++) ids[r] = r % 2 ? 7 : (int)(check::random() % ids_count), order[r] = r;
  std::stable_sort(order.begin(), order.end(), [&](long long a, long long b) { return ids[a] < ids[b]; });
  for (int r = 0; r < rows; r++) sorted[r] = ids[order[r]];
  const unsigned blocks = (rows + TABLE_PLACES - 1) / TABLE_PLACES;
  Single parts = unwritten_single((size_t)blocks * 2 * HIDDEN), gradient((size_t)ids_count * HIDDEN, 0.5f);
  const TableGradient a{sorted.data(), order.data(), d_sum.data(), parts.data(), gradient.data(), rows, skipped};
  emulator::launch({blocks, 1, 1}, TABLE_THREADS, 0, [&] { table_gradient(a); });
  emulator::launch({blocks, 1, 1}, TABLE_THREADS, 0, [&] { table_gradient_over_borders(a); });
  std::vector<double> expected((size_t)ids_count * HIDDEN);
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < HIDDEN && ids[r] != skipped; c++) expected[(size_t)ids[r] * HIDDEN + c] += value(d_sum[(size_t)r * HIDDEN + c]);
  Error error;
  for (size_t i = 0; i < expected.size(); i++) error.add(gradient[i] - 0.5, expected[i]);
  under("table gradient of " + std::to_string(rows) + " rows", error, 1e-6);
}

static void test_cross_entropy(int columns, int threads, void (*kernel)(CrossEntropy)) {
  const int rows = 5;
  const float scale = 0.125f;
  Half logits = normal_half((size_t)rows * columns, 3.0);
  std::vector<long long> labels(rows);
  for (int r = 0; r < rows; r++) labels[r] = (long long)(1 + check::random() % (columns - 2));
  // Rows 1 and 2 are right, the second with another of the same score behind the label; row 3 has one before it.
  for (int r = 1; r < 4; r++) logits[r * columns + labels[r]] = to_bf16(30);
  logits[2 * columns + columns - 1] = logits[3 * columns] = to_bf16(30);
  const Half before = logits;
  Single loss = unwritten_single(rows);
  std::vector<int> correct(rows, -1);
  emulator::launch({rows, 1, 1}, threads, 4 * 64, [&] { kernel({logits.data(), labels.data(), loss.data(), correct.data(), columns, 1, scale}); });
  Error losses, gradient;
  bool right = correct[1] == 1 && correct[2] == 1 && correct[3] == 0;
  for (int r = 0; r < rows; r++) {
    double largest = -INFINITY, sum = 0;
    const auto row = before.begin() + (size_t)r * columns;
    const auto first = std::max_element(row, row + columns, [](auto a, auto b) { return value(a) < value(b); }) - row;
    for (int c = 0; c < columns; c++) largest = std::max(largest, value(before[(size_t)r * columns + c]));
    for (int c = 0; c < columns; c++) sum += std::exp(value(before[(size_t)r * columns + c]) - largest);
    const double at_label = value(before[(size_t)r * columns + labels[r]]);
    losses.add(loss[r], largest + std::log(sum) - at_label);
    right = right && correct[r] == (first == labels[r]);
    for (int c = 0; c < columns; c++)
      gradient.add(value(logits[(size_t)r * columns + c]), scale * (std::exp(value(before[(size_t)r * columns + c]) - largest) / sum - (c == labels[r])));
  }
  const std::string what = "cross-entropy over " + std::to_string(columns);
  under(what + ": loss", losses, 1e-5);
  under(what + ": gradient", gradient, 3e-3);
  that(what + ": correct", right);
}

// Of some columns of a wider matrix, times a number that is the same for all rows.
static void test_partial_sums() {
  const int rows = 70, columns = 520, stride = 800, blocks = 2;
  const float factor = 0.75f;
  Half matrix = normal_half((size_t)rows * stride);
  Single partial = unwritten_single((size_t)blocks * columns), sums(columns, 1.f);
  emulator::launch({3, blocks, 1}, 32 * SUM_WARPS, 4 * 256 * SUM_WARPS, [&] { partial_column_sums({matrix.data() + 240, partial.data(), rows, columns, stride}); });
  const AddColumnSums add{{{partial.data(), &factor, sums.data(), nullptr, blocks, columns, 0}}, columns};
  emulator::launch({(columns + 31) / 32, 1, 1}, 32 * SUM_WARPS, 4 * 32 * SUM_WARPS, [&] { add_column_sums(add); });
  Error error;
  for (int c = 0; c < columns; c++) {
    double sum = 1;
    for (int r = 0; r < rows; r++) sum += factor * value(matrix[(size_t)r * stride + 240 + c]);
    error.add(sums[c], sum);
  }
  under("column sums", error, 1e-6);
}

// A vector times a matrix: rows that each have a weight.
static void test_weighted_sums() {
  const int rows = 150, columns = 72;
  Single matrix = normal_single(rows * columns), weights = normal_single(rows), sums(columns, 2.f);
  const AddColumnSums add{{{matrix.data(), weights.data(), sums.data(), nullptr, rows, columns, 1}}, columns};
  emulator::launch({(columns + 31) / 32, 1, 1}, 32 * SUM_WARPS, 4 * 32 * SUM_WARPS, [&] { add_column_sums(add); });
  Error error;
  for (int c = 0; c < columns; c++) {
    double sum = 2;
    for (int r = 0; r < rows; r++) sum += (double)weights[r] * matrix[r * columns + c];
    error.add(sums[c], sum);
  }
  under("weighted column sums", error, 1e-6);
}

static void test_adamw() {
  const int n = 1029;
  float control[3] = {0.5f, 0.f, 0.f};
  Single p = normal_single(n), g = normal_single(n), m(n, 0.f), v(n, 0.f), p0 = p, g0 = g;
  Half copy = unwritten_half(n);
  const AdamWPiece piece{p.data(), g.data(), m.data(), v.data(), copy.data(), (u64)n};
  std::vector<double> q(p.begin(), p.end()), first(n, 0.0), second(n, 0.0);
  for (int step = 1; step <= 3; step++) {
    const double lr = 1e-2, b1 = 0.9, b2 = 0.98, decay = 1e-3, epsilon = 1e-6;
    control[1] = (float)(1 / (1 - std::pow(b1, step))), control[2] = (float)(1 / std::sqrt(1 - std::pow(b2, step)));
    const AdamW a{&piece, control, (float)b1, (float)b2, (float)(1 - decay), (float)lr, (float)epsilon, step == 3};
    g = g0;
    emulator::launch({1, 1, 1}, 256, 0, [&] { adamw(a); });
    for (int i = 0; i < n; i++) {
      const double d = 0.5 * g0[i];
      first[i] = b1 * first[i] + (1 - b1) * d, second[i] = b2 * second[i] + (1 - b2) * d * d;
      q[i] = q[i] * (1 - decay) - lr * (first[i] / (1 - std::pow(b1, step))) / (std::sqrt(second[i] / (1 - std::pow(b2, step))) + epsilon);
    }
  }
  Error weights, copies, moved;
  bool cleared = true;
  for (int i = 0; i < n; i++) weights.add(p[i], q[i]), copies.add(value(copy[i]), q[i]), moved.add(p[i] - p0[i], q[i] - p0[i]), cleared = cleared && g[i] == 0;
  under("adamw weights", weights, 1e-6);
  under("adamw change of the weights", moved, 1e-4);
  under("adamw bf16 copies", copies, 3e-3);
  that("adamw clears the gradients", cleared);

  // A gradient that is no number: the factor of zero keeps it out of everything.
  const Single p3 = p, m3 = m, v3 = v;
  g.assign(n, std::numeric_limits<float>::quiet_NaN());
  control[0] = 0.f;
  const AdamW a{&piece, control, 0.9f, 0.98f, 0.999f, 1e-2f, 1e-6f, 1};
  emulator::launch({1, 1, 1}, 256, 0, [&] { adamw(a); });
  that("adamw with a factor of zero changes no weight", p == p3 && m == m3 && v == v3);
  that("adamw with a factor of zero clears the gradients", g == Single(n, 0.f));
}

void test_elementwise() {
  test_dropout();
  test_geglu(5, 64, 0.0);
  test_geglu(7, 328, 0.25);
  test_gelu(8 * 700);
  test_layer_norm(21, 0.1);
  test_layer_norm(3, 0.0);
  test_embedding(19, true, false);
  test_embedding(5, false, true);
  test_table_gradient(3 * TABLE_PLACES + 21, 3);
  test_table_gradient(2 * TABLE_PLACES, 7);
  test_table_gradient(5, -1);
  test_cross_entropy(520, 512, cross_entropy_32k);
  test_cross_entropy(30528, 512, cross_entropy_32k);
  test_cross_entropy(33000, 1024, cross_entropy_64k);
  test_partial_sums();
  test_weighted_sums();
  test_adamw();
}
