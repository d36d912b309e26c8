// What of a tile of products may reach its line's threshold, compacted into one list.

namespace {

const int EACH = 8;  // products that a thread looks at

}  // namespace

// products: m lines of n float32, `stride` apart, from the `first` on. by_line: (m,), by_column, less: (n,) float32. What is compared is
//     by_line[i] * products[i, j] * by_column[j] - less[j]
// with least (m,) float32: all that is not below it (so a NaN too, as infinity) is written to lines, columns, values
// (capacity,), in any order, at places taken from `count`, which counts on past the capacity. Only where j - i > past.
// Grid: for each line as many blocks as take n columns, EACH for each thread.
extern "C" __global__ void above(const float* products, const float* by_line, const float* by_column,
                                 const float* less, const float* least, int* lines, int* columns, float* values,
                                 unsigned long long* count, long long capacity, long long first, long long stride,
                                 long long past, int n) {
    __shared__ unsigned int found;
    __shared__ unsigned long long base;
    const int width = blockDim.x * EACH, parts = (n + width - 1) / width;
    const int line = blockIdx.x / parts, start = blockIdx.x % parts * width + threadIdx.x;
    const long long end = start - static_cast<int>(threadIdx.x) + width;
    if ((end < n ? end : n) - 1 - line <= past) return;  // the whole block: all of it below the diagonal
    const float* row = products + first + line * stride;
    const float factor = by_line[line], bound = least[line];
    float kept[EACH];
    unsigned int mine = 0;
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
        const int j = start + k * static_cast<int>(blockDim.x);
        kept[k] = 0;
        if (j >= n || static_cast<long long>(j) - line <= past) continue;
        const float value = factor * row[j] * by_column[j] - less[j];
        if (value < bound) continue;
        kept[k] = value != value ? __uint_as_float(0x7F800000u) : value;
        mine |= 1u << k;
    }
    if (!__syncthreads_or(mine != 0)) return;
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    unsigned int hits = 0;
#pragma unroll
    for (int k = 0; k < EACH; ++k) hits += mine >> k & 1;
    const unsigned int offset = hits ? atomicAdd(&found, hits) : 0;
    __syncthreads();
    if (threadIdx.x == 0) base = atomicAdd(count, static_cast<unsigned long long>(found));
    __syncthreads();
    long long place = static_cast<long long>(base) + offset;
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
        if (!(mine >> k & 1)) continue;
        if (place < capacity) {
            lines[place] = line;
            columns[place] = start + k * static_cast<int>(blockDim.x);
            values[place] = kept[k];
        }
        ++place;
    }
}
