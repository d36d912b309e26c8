// Scores of candidates from products with their codes or rows: what stands before and after `rerank.cu`.
//
// All in float64; `facts` (q, 3) float64 holds of each query the power of two that it was divided by, the sum of its
// values and its squared length.

namespace {

const unsigned int WHOLE_WARP = 0xFFFFFFFFu;
const int COSINE = 0, INNER_PRODUCT = 1;  // 2: minus the squared distance

__device__ double score(double dot, double norm2, double square, int metric) {
    if (metric == INNER_PRODUCT) return dot;
    if (metric != COSINE) return 2 * dot - norm2 - square;
    const double lengths = sqrt(norm2) * sqrt(square);
    if (!(lengths > 0)) return 0;
    const double cosine = dot / lengths;
    return cosine < -1 ? -1 : cosine > 1 ? 1 : cosine;
}

// The sum of a value of each thread, in all threads of a block of up to 1024, a multiple of 32.
__device__ double block_sum(double v, double* of_warp) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_down_sync(WHOLE_WARP, v, offset);
    __syncthreads();  // what `of_warp` held has been read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    double sum = 0;
    for (unsigned int i = 0; i < blockDim.x / 32; ++i) sum += of_warp[i];
    return sum;
}

__device__ double block_max(double v, double* of_warp) {
    for (int offset = 16; offset > 0; offset /= 2) v = fmax(v, __shfl_down_sync(WHOLE_WARP, v, offset));
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    double most = 0;
    for (unsigned int i = 0; i < blockDim.x / 32; ++i) most = fmax(most, of_warp[i]);
    return most;
}

}  // namespace

// queries: (q, d) float32. scaled: (q, d) float32, each over the power of two that brings its values to magnitudes up
// to 1, which changes no digit; facts: (q, 3). One block for each query.
extern "C" __global__ void facts_of_queries(const float* queries, float* scaled, double* facts, int d) {
    __shared__ double of_warp[32];
    const size_t line = blockIdx.x;
    const float* query = queries + line * d;
    double most = 0, sum = 0, square = 0;
    for (int j = threadIdx.x; j < d; j += blockDim.x) {
        const double v = query[j];
        most = fmax(most, fabs(v));
        sum += v;
        square += v * v;
    }
    most = fmax(block_max(most, of_warp), 7.888609052210118e-31);  // 2^-100
    sum = block_sum(sum, of_warp);
    square = block_sum(square, of_warp);
    int exponent;
    frexp(most, &exponent);
    const float inverse = static_cast<float>(ldexp(1.0, -exponent));
    for (int j = threadIdx.x; j < d; j += blockDim.x) scaled[line * d + j] = query[j] * inverse;
    if (threadIdx.x == 0) {
        facts[line * 3] = ldexp(1.0, exponent);
        facts[line * 3 + 1] = sum;
        facts[line * 3 + 2] = square;
    }
}

// dots: (q, r) float64, of scaled queries with coded values. at: (q, r) int64, the place of each candidate in low,
// step, norm2 (n,) float32; below 0 = none. scores: (q, r) float32. One thread for each pair.
extern "C" __global__ void scores_of_codes(const double* dots, const long long* at, const float* low,
                                           const float* step, const float* norm2, const double* facts, float* scores,
                                           long long pairs, int r, int metric) {
    const long long pair = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (pair >= pairs) return;
    const long long row = at[pair];
    if (row < 0) {
        scores[pair] = __uint_as_float(0xFF800000u);
        return;
    }
    const double* of = facts + pair / r * 3;
    const double dot = low[row] * of[1] + step[row] * (dots[pair] * of[0]);
    scores[pair] = static_cast<float>(score(dot, norm2[row], of[2], metric));
}

// dots, squares: (q, r) float64, products of queries with rows and squared lengths of those. Cosine or inner product.
extern "C" __global__ void scores_of_rows(const double* dots, const double* squares, const double* facts,
                                          float* scores, long long pairs, int r, int metric) {
    const long long pair = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (pair >= pairs) return;
    scores[pair] = static_cast<float>(score(dots[pair], squares[pair], facts[pair / r * 3 + 2], metric));
}
