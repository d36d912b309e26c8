// The best of each line of candidates, by score descending, then row ascending: one block for each line.
//
// A bitonic sort (Batcher 1968) in shared memory of the pairs (key of the score, row), which is exact for every
// score and every row number. Score bits are turned so that unsigned keys order as the scores do: larger scores have
// larger keys, -0 that of 0, -inf a key above 0. Key 0 is what no score has: a NaN, which comes out as -inf, and,
// with the largest row number, what is absent.

namespace {

const long long ABSENT = 0x7FFFFFFFFFFFFFFFLL;

__device__ unsigned int key_of(float score) {
    if (score != score) return 0;
    const unsigned int bits = __float_as_uint(score + 0.0f);  // -0 + 0 is 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ float score_of(unsigned int key) {
    if (key == 0) return __uint_as_float(0xFF800000u);
    return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

// scores, rows: (q, r), r <= MOST, rows below 0 = absent. best, kept: (q, keep); absent = -1 and -inf.
template <int MOST>
__device__ void select(const float* scores, const long long* rows, long long* best, float* kept, int r, int keep) {
    __shared__ long long row_at[MOST];
    __shared__ unsigned int key_at[MOST];
    const size_t line = blockIdx.x;
    int size = 2;
    while (size < r) size *= 2;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const long long row = i < r ? rows[line * r + i] : -1;
        key_at[i] = row < 0 ? 0 : key_of(scores[line * r + i]);
        row_at[i] = row < 0 ? ABSENT : row;
    }
    for (int run = 2; run <= size; run *= 2) {
        for (int step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int t = threadIdx.x; t < size / 2; t += blockDim.x) {
                const int i = 2 * t - (t & (step - 1)), j = i + step;
                const unsigned int a = key_at[i], b = key_at[j];
                const long long row_a = row_at[i], row_b = row_at[j];
                const bool in_order = a > b || (a == b && row_a <= row_b);
                if (in_order != ((i & run) == 0)) {
                    key_at[i] = b, key_at[j] = a;
                    row_at[i] = row_b, row_at[j] = row_a;
                }
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < keep; i += blockDim.x) {
        const bool there = i < size && row_at[i] != ABSENT;
        best[line * keep + i] = there ? row_at[i] : -1;
        kept[line * keep + i] = score_of(there ? key_at[i] : 0);
    }
}

}  // namespace

// Shared memory is what bounds how many blocks run at once: 12 bytes a candidate, 48 KiB for the largest.
extern "C" __global__ void select_256(const float* scores, const long long* rows, long long* best, float* kept, int r,
                                      int keep) {
    select<256>(scores, rows, best, kept, r, keep);
}
extern "C" __global__ void select_1024(const float* scores, const long long* rows, long long* best, float* kept, int r,
                                       int keep) {
    select<1024>(scores, rows, best, kept, r, keep);
}
extern "C" __global__ void select_2048(const float* scores, const long long* rows, long long* best, float* kept, int r,
                                       int keep) {
    select<2048>(scores, rows, best, kept, r, keep);
}
extern "C" __global__ void select_4096(const float* scores, const long long* rows, long long* best, float* kept, int r,
                                       int keep) {
    select<4096>(scores, rows, best, kept, r, keep);
}
