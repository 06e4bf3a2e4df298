// The fused operations of `cupy_twins.py` as CUDA kernels, for T = float and double.
//
// Sizes come as long long and numbers as double, as CuPy hands over Python's int and float.
// All arrays are contiguous unless strides are given (in numbers, not bytes). Most kernels give a
// block to a row: thread t of a block takes columns t, t + blockDim.x, ..., so any number of
// threads is right, as long as it is a multiple of 32 (a warp) and at most 1024.
//
// There is no #include, because NVRTC has no headers, and nothing but __shared__, __syncthreads
// and __shfl_xor_sync, so that the tests can run the same text on the CPU.

typedef long long Size;

// --- what the threads of a block find together ---------------------------------------------------

struct Sum {
  template <typename T> static __device__ T of(T a, T b) { return a + b; }
};

struct Max {
  template <typename T> static __device__ T of(T a, T b) { return b > a ? b : a; }
};

// Combine one number of each thread; all threads get the result, the same to the last bit.
template <typename Op, typename T>
__device__ T block_reduce(T x) {
  __shared__ T of_warp[32];
  for (int lane = 16; lane > 0; lane /= 2) x = Op::of(x, __shfl_xor_sync(0xffffffffu, x, lane));
  __syncthreads();  // an earlier call's numbers may still be read
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  T total = of_warp[0];
  for (unsigned w = 1; w < blockDim.x / 32; w++) total = Op::of(total, of_warp[w]);
  return total;
}

// --- heads: (B, L, H*Dh) <-> (H, B, L, Dh) -------------------------------------------------------
// With the heads in front a batch of products has one stride, which is all that cuBLAS takes, and
// what the batch shares (r, and the sum of its gradient) is one larger product.

// y = (x + bias) * scale. Block (b*L + l, job): two jobs of the same strides in one launch.
template <typename T>
__global__ void to_heads(const T* x0, const T* x1, const T* bias0, const T* bias1, T* y0, T* y1,
                         Size n_batch, Size length, Size n_head, Size d_head, Size stride_batch,
                         Size stride_head, Size stride_row, double scale) {
  const T* x = blockIdx.y ? x1 : x0;
  const T* bias = blockIdx.y ? bias1 : bias0;  // (H, Dh), or none
  T* y = blockIdx.y ? y1 : y0;
  Size b = blockIdx.x / length, l = blockIdx.x % length;
  x += b * stride_batch + l * stride_row;
  for (int c = threadIdx.x; c < (int)(n_head * d_head); c += blockDim.x) {
    int h = c / (int)d_head, d = c % (int)d_head;
    T value = x[h * stride_head + d];
    if (bias) value += bias[c];
    y[((h * n_batch + b) * length + l) * d_head + d] = value * (T)scale;
  }
}

// y = (x0 + x1) * scale, x1 may be missing. Block b*L + l.
template <typename T>
__global__ void from_heads(const T* x0, const T* x1, T* y, Size n_batch, Size length, Size n_head,
                           Size d_head, double scale) {
  Size b = blockIdx.x / length, l = blockIdx.x % length;
  for (int c = threadIdx.x; c < (int)(n_head * d_head); c += blockDim.x) {
    int h = c / (int)d_head, d = c % (int)d_head;
    Size from = ((h * n_batch + b) * length + l) * d_head + d;
    T value = x0[from];
    if (x1) value += x1[from];
    y[blockIdx.x * n_head * d_head + c] = value * (T)scale;
  }
}

// --- attention: shift, mask, softmax, dropout ----------------------------------------------------
// Rows are (h, b, i), row i*T + ... of (H, B, T, K). Key j of query i stands in the scores by
// distance at column j + T-1-i. Keys from i + M + 1 on, M = K - T, are the future: never seen.

// p: scores a + c by key on entry, probabilities on exit. by_distance: scores b + d.
// mask (T, K): 0 or -inf, for all rows of the batch (mask_step 0) or one each, mask_step numbers
// on. With `uniform` (B, H, T, K), p_dropped gets p after dropout; it may be the same array as
// by_distance, whose row is read before the first reduction.
template <typename T>
__global__ void attention_softmax(T* p, const T* by_distance, const T* mask, const float* uniform,
                                  T* p_dropped, Size n_batch, Size n_head, Size n_query,
                                  Size n_key, Size mask_step, double rate) {
  Size row = blockIdx.x, i = row % n_query, b = row / n_query % n_batch;
  Size h = row / n_query / n_batch, seen = i + n_key - n_query + 1;
  p += row * n_key;
  by_distance += row * n_key + n_query - 1 - i;
  mask += b * mask_step + i * n_key;
  T high = (T)-1e30;  // below every score; -inf - -inf would not be a number
  for (Size j = threadIdx.x; j < seen; j += blockDim.x) {
    p[j] += by_distance[j] + mask[j];
    high = Max::of(high, p[j]);
  }
  high = block_reduce<Max>(high);
  T sum = 0;
  for (Size j = threadIdx.x; j < seen; j += blockDim.x) {
    p[j] = exp(p[j] - high);
    sum += p[j];
  }
  sum = block_reduce<Sum>(sum);
  for (Size j = threadIdx.x; j < n_key; j += blockDim.x) p[j] = j < seen ? p[j] / sum : (T)0;
  if (!uniform) return;
  T scale = (T)(1.0 / (1.0 - rate));
  uniform += ((b * n_head + h) * n_query + i) * n_key;
  p_dropped += row * n_key;
  for (Size j = threadIdx.x; j < n_key; j += blockDim.x)
    p_dropped[j] = uniform[j] >= (float)rate ? p[j] * scale : (T)0;
}

// ds: dp on entry, the gradient of the scores by key on exit; by_distance: the same un-shifted.
// p_dropped is p where nothing was dropped. A dropped key is known by its 0; where p itself is 0
// the gradient is 0 all the same.
template <typename T>
__global__ void attention_softmax_backward(const T* p, const T* p_dropped, T* ds, T* by_distance,
                                           Size n_query, Size n_key, double rate) {
  Size row = blockIdx.x, i = row % n_query;
  Size seen = i + n_key - n_query + 1, shift = n_query - 1 - i;  // seen + shift = K
  p += row * n_key;
  p_dropped += row * n_key;
  ds += row * n_key;
  by_distance += row * n_key;
  T dot = 0;
  for (Size j = threadIdx.x; j < seen; j += blockDim.x) dot += ds[j] * p_dropped[j];
  dot = block_reduce<Sum>(dot);
  T scale = (T)(1.0 / (1.0 - rate));
  for (Size j = threadIdx.x; j < n_key; j += blockDim.x) {
    T kept = j < seen && p_dropped[j] != 0 ? ds[j] * scale : (T)0;
    ds[j] = j < seen ? p[j] * (kept - dot) : (T)0;
    if (j < seen) by_distance[j + shift] = ds[j];
    if (j < shift) by_distance[j] = 0;  // distances that this query does not read
  }
}

// --- LayerNorm -----------------------------------------------------------------------------------

template <typename T>
__global__ void layer_norm(const T* x, const T* gamma, const T* beta, T* y, T* x_hat, T* rstd,
                           Size d_model, double eps) {
  Size row = blockIdx.x;
  x += row * d_model;
  y += row * d_model;
  x_hat += row * d_model;
  T sum = 0;
  for (Size d = threadIdx.x; d < d_model; d += blockDim.x) sum += x[d];
  T mean = block_reduce<Sum>(sum) / (T)d_model;
  sum = 0;
  for (Size d = threadIdx.x; d < d_model; d += blockDim.x) sum += (x[d] - mean) * (x[d] - mean);
  T scale = (T)1 / sqrt(block_reduce<Sum>(sum) / (T)d_model + (T)eps);
  for (Size d = threadIdx.x; d < d_model; d += blockDim.x) {
    x_hat[d] = (x[d] - mean) * scale;
    y[d] = x_hat[d] * gamma[d] + beta[d];
  }
  if (threadIdx.x == 0) rstd[row] = scale;
}

template <typename T>
__global__ void layer_norm_backward(const T* dy, const T* x_hat, const T* rstd, const T* gamma,
                                    T* dx, Size d_model) {
  Size row = blockIdx.x;
  dy += row * d_model;
  x_hat += row * d_model;
  dx += row * d_model;
  T sum = 0, sum_x_hat = 0;
  for (Size d = threadIdx.x; d < d_model; d += blockDim.x) {
    T g = dy[d] * gamma[d];
    sum += g;
    sum_x_hat += g * x_hat[d];
  }
  T mean = block_reduce<Sum>(sum) / (T)d_model;
  T mean_x_hat = block_reduce<Sum>(sum_x_hat) / (T)d_model;
  for (Size d = threadIdx.x; d < d_model; d += blockDim.x)
    dx[d] = rstd[row] * (dy[d] * gamma[d] - mean - x_hat[d] * mean_x_hat);
}

// --- sums over rows: gradients of biases, gamma and beta -----------------------------------------

// sums (S, G, gridDim.y, C): scale * sum over a chunk of rows of x (G, N, C), and with y (G, N, C)
// also of x*y (S = 2). Block (32 columns, chunk, group); the order of the sum is fixed.
template <typename T>
__global__ void column_sums(const T* x, const T* y, T* sums, Size n_row, Size n_column,
                            double scale) {
  __shared__ T part[2][1024];
  Size column = (Size)blockIdx.x * 32 + threadIdx.x % 32, n_chunk = gridDim.y;
  Size rows = (n_row + n_chunk - 1) / n_chunk, first = blockIdx.y * rows;
  Size stop = first + rows < n_row ? first + rows : n_row;
  T sum = 0, sum_xy = 0;
  if (column < n_column) {
    for (Size n = first + threadIdx.x / 32; n < stop; n += blockDim.x / 32) {
      Size at = (blockIdx.z * n_row + n) * n_column + column;
      sum += x[at];
      if (y) sum_xy += x[at] * y[at];
    }
  }
  part[0][threadIdx.x] = sum;
  part[1][threadIdx.x] = sum_xy;
  __syncthreads();
  Size which = threadIdx.x / 32;  // warp 0 adds up x; warp 0 again, or warp 1, x*y
  if (column >= n_column) return;
  for (Size s = which; s < (y ? 2 : 1); s += blockDim.x / 32) {
    T total = 0;
    for (unsigned w = 0; w < blockDim.x / 32; w++) total += part[s][w * 32 + threadIdx.x % 32];
    sums[((s * gridDim.z + blockIdx.z) * n_chunk + blockIdx.y) * n_column + column] =
        total * (T)scale;
  }
}

// --- bias, ReLU, dropout -------------------------------------------------------------------------

// x = dropout(relu(x + bias)) in place, x (N, C); relu 0 or 1; without `uniform` nothing drops.
template <typename T>
__global__ void bias_relu_dropout(T* x, const T* bias, const float* uniform, Size n_column,
                                  Size relu, double rate) {
  T scale = (T)(1.0 / (1.0 - rate));
  for (Size c = threadIdx.x; c < n_column; c += blockDim.x) {
    Size at = blockIdx.x * n_column + c;
    T value = x[at] + bias[c];
    if (relu && value < 0) value = 0;
    if (uniform) value = uniform[at] >= (float)rate ? value * scale : (T)0;
    x[at] = value;
  }
}

// mask = 0 where uniform < rate, else 1 / (1 - rate); y = x mask.
template <typename T>
__global__ void dropout(const T* x, const float* uniform, T* y, T* mask, Size n, double rate) {
  T scale = (T)(1.0 / (1.0 - rate));
  Size step = (Size)gridDim.x * blockDim.x;
  for (Size i = (Size)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    mask[i] = uniform[i] >= (float)rate ? scale : (T)0;
    y[i] = x[i] * mask[i];
  }
}

// dx = dy / (1 - rate) where y > 0 (if y is given) and nothing was dropped (if uniform is), else 0.
template <typename T>
__global__ void relu_dropout_backward(const T* dy, const T* y, const float* uniform, T* dx, Size n,
                                      double rate) {
  T scale = (T)(1.0 / (1.0 - rate));
  Size step = (Size)gridDim.x * blockDim.x;
  for (Size i = (Size)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    bool open = (!y || y[i] > 0) && (!uniform || uniform[i] >= (float)rate);
    dx[i] = open ? dy[i] * scale : (T)0;
  }
}

// --- cross entropy -------------------------------------------------------------------------------

// log_z (N,) = log sum exp of a row, nll = log_z - logits[target].
template <typename T>
__global__ void cross_entropy(const T* logits, const int* targets, T* nll, T* log_z, Size n_token) {
  Size row = blockIdx.x, target = targets[row];
  logits += row * n_token;
  T high = (T)-1e30;
  for (Size v = threadIdx.x; v < n_token; v += blockDim.x) high = Max::of(high, logits[v]);
  high = block_reduce<Max>(high);
  T sum = 0;
  for (Size v = threadIdx.x; v < n_token; v += blockDim.x) sum += exp(logits[v] - high);
  T log_sum = log(block_reduce<Sum>(sum));
  if (threadIdx.x) return;
  bool known = target >= 0 && target < n_token;  // else not a number, instead of foreign memory
  nll[row] = known ? log_sum - (logits[target] - high) : sqrt((T)-1);
  log_z[row] = high + log_sum;
}

template <typename T>
__global__ void cross_entropy_backward(const T* logits, const int* targets, const T* log_z,
                                       const T* dnll, T* dlogits, Size n_token) {
  Size row = blockIdx.x;
  for (Size v = threadIdx.x; v < n_token; v += blockDim.x) {
    Size at = row * n_token + v;
    T p = exp(logits[at] - log_z[row]);
    dlogits[at] = (p - (T)(v == targets[row])) * dnll[row];
  }
}

// --- the flat buffer: norm, clipping, Adam -------------------------------------------------------

template <typename T>
__global__ void square_sums(const T* x, T* sums, Size n) {
  T sum = 0;
  Size step = (Size)gridDim.x * blockDim.x;
  for (Size i = (Size)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) sum += x[i] * x[i];
  sum = block_reduce<Sum>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// norm = sqrt(sum of sums); grad is scaled to a norm of at most max_norm (0: not at all). Every
// block adds up the sums, in the same order: the factor is never seen by the host.
template <typename T>
__global__ void clip_by_norm(T* grad, const T* sums, T* norm, Size n_sum, Size n, double max_norm) {
  T sum = 0;
  for (Size i = threadIdx.x; i < n_sum; i += blockDim.x) sum += sums[i];
  T found = sqrt(block_reduce<Sum>(sum));
  if (blockIdx.x == 0 && threadIdx.x == 0) norm[0] = found;
  if (max_norm <= 0 || found <= (T)max_norm) return;
  T factor = (T)max_norm / found;
  Size step = (Size)gridDim.x * blockDim.x;
  for (Size i = (Size)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) grad[i] *= factor;
}

// rate = lr / (1 - beta1^t), stretch = 1 / sqrt(1 - beta2^t); in the GPU's memory, because they
// change from step to step and a recorded launch does not.
template <typename T>
__global__ void adam(T* flat, const T* grad, T* m, T* v, const double* rate, const double* stretch,
                     Size n, double beta1, double beta2, double eps) {
  Size step = (Size)gridDim.x * blockDim.x;
  for (Size i = (Size)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    T g = grad[i];
    m[i] = m[i] * (T)beta1 + (T)(1.0 - beta1) * g;
    v[i] = v[i] * (T)beta2 + g * g * (T)(1.0 - beta2);
    flat[i] -= m[i] / (sqrt(v[i]) * (T)*stretch + (T)eps) * (T)*rate;
  }
}

// --- random numbers ------------------------------------------------------------------------------

// x[i] = the i-th uniform number in [0, 1) of a draw: Philox4x32-10 (Salmon et al. 2011), which turns
// a counter (i / 4, draw) and a key into four words without any state. T plays no part.
template <typename T>
__global__ void uniform(float* x, const unsigned* key, Size draw, Size n) {
  Size step = (Size)gridDim.x * blockDim.x;
  for (Size i = (Size)blockIdx.x * blockDim.x + threadIdx.x; i < (n + 3) / 4; i += step) {
    unsigned c[4] = {(unsigned)i, (unsigned)(i >> 32), (unsigned)draw, 0}, k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
      unsigned long long a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
      unsigned c1 = c[1], c3 = c[3];
      c[0] = (unsigned)(b >> 32) ^ c1 ^ k0;
      c[1] = (unsigned)b;
      c[2] = (unsigned)(a >> 32) ^ c3 ^ k1;
      c[3] = (unsigned)a;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int j = 0; j < 4 && 4 * i + j < n; j++) x[4 * i + j] = (c[j] >> 8) * 0x1p-24f;
  }
}
