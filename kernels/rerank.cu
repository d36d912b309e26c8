// Products of each query with each of its candidates: one warp for each pair.
//
// Common to all kernels here:
//     queries     (q, d) float32
//     values      (n, d) rows: float32, float16 (as bits), uint8, or 4-bit codes, (n, ceil(d / 2)) bytes
//     at          (q, r) int64, row of each candidate in `values`; below 0 = none, whose result is 0
//     grid        ceil(q × r / warps of a block) blocks of a multiple of 32 threads
//     results     (q, r) float64
// Lanes take four neighbouring values at a time where the rows are aligned for it, single ones elsewhere.

namespace {

const unsigned int WHOLE_WARP = 0xFFFFFFFFu;

template <typename T> struct alignas(4 * sizeof(T)) Four { T at[4]; };

__device__ float to_float(unsigned char v) { return v; }
// float16 bits. Shifted into place as float32 the exponent is short by 112; times 2**112 mends it, subnormals too.
__device__ float to_float(unsigned short v) {
    return __uint_as_float((v & 0x8000u) << 16 | (v & 0x7FFFu) << 13) * 5192296858534827628530496329220096.0f;
}

__device__ double warp_sum(double v) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_down_sync(WHOLE_WARP, v, offset);
    return v;  // whole in lane 0
}

// The pair of this warp and this thread's lane in it.
struct Place {
    long long pair;
    int lane;
    __device__ Place()
        : pair((static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) / 32), lane(threadIdx.x % 32) {}
};

// Calls take(query values, row values, how many) until this lane's share of the row is used up.
template <typename T, typename Take>
__device__ void share_of_row(const float* query, const T* row, int d, int lane, Take take) {
    const bool fours = d % 4 == 0 && reinterpret_cast<size_t>(row) % sizeof(Four<T>) == 0 &&
                       reinterpret_cast<size_t>(query) % sizeof(Four<float>) == 0;
    if (fours) {
#pragma unroll 4
        for (int j = lane; j < d / 4; j += 32) {
            const Four<float> q = reinterpret_cast<const Four<float>*>(query)[j];
            const Four<T> v = reinterpret_cast<const Four<T>*>(row)[j];
            take(q.at, v.at, 4);
        }
    } else {
        for (int j = lane; j < d; j += 32) take(query + j, row + j, 1);
    }
}

// This lane's share of a dot product with codes: products of up to four neighbours in float32, their sum in float64.
// The caller scales the queries to magnitudes up to 1, so nothing overflows.
template <typename T, typename Code>
__device__ double share_of_dot(const float* query, const T* row, int d, int lane, Code code) {
    double dot = 0;
    share_of_row(query, row, d, lane, [&](const float* q, const T* v, int n) {
        float some = 0;
        for (int j = 0; j < n; ++j) some += q[j] * code(v[j]);
        dot += some;
    });
    return dot;
}

template <typename T>
__device__ void dot_codes(const float* queries, const T* values, const long long* at, double* dots, long long pairs,
                          int r, int d) {
    const Place place;
    if (place.pair >= pairs) return;  // the whole warp
    const long long row = at[place.pair];
    double dot = 0;
    if (row >= 0) {
        dot = share_of_dot(queries + place.pair / r * d, values + row * d, d, place.lane,
                           [](T v) { return to_float(v); });
    }
    dot = warp_sum(dot);
    if (place.lane == 0) dots[place.pair] = dot;
}

}  // namespace

extern "C" __global__ void dot_uint8(const float* queries, const unsigned char* values, const long long* at,
                                     double* dots, long long pairs, int r, int d) {
    dot_codes(queries, values, at, dots, pairs, r, d);
}

// Two codes in a byte: the first half of the dimensions in the low bits, the other in the high bits. The row is gone
// through twice; the second time it comes from the cache.
extern "C" __global__ void dot_uint4(const float* queries, const unsigned char* values, const long long* at,
                                     double* dots, long long pairs, int r, int d) {
    const Place place;
    if (place.pair >= pairs) return;
    const long long row = at[place.pair];
    const int half = (d + 1) / 2;
    double dot = 0;
    if (row >= 0) {
        const float* query = queries + place.pair / r * d;
        const unsigned char* codes = values + row * half;
        dot = share_of_dot(query, codes, half, place.lane, [](unsigned char v) { return static_cast<float>(v & 15); }) +
              share_of_dot(query + half, codes, d - half, place.lane, [](unsigned char v) { return static_cast<float>(v >> 4); });
    }
    dot = warp_sum(dot);
    if (place.lane == 0) dots[place.pair] = dot;
}

extern "C" __global__ void dot_float16(const float* queries, const unsigned short* values, const long long* at,
                                       double* dots, long long pairs, int r, int d) {
    dot_codes(queries, values, at, dots, pairs, r, d);
}

// Rows as they are, all in float64: exact scores, and no finite float32 overflows.
// dots: products with the query. squares: squared length of the row.
extern "C" __global__ void dot_float32(const float* queries, const float* values, const long long* at, double* dots,
                                       double* squares, long long pairs, int r, int d) {
    const Place place;
    if (place.pair >= pairs) return;
    const long long row = at[place.pair];
    double dot = 0, square = 0;
    if (row >= 0) {
        share_of_row(queries + place.pair / r * d, values + row * d, d, place.lane,
                     [&](const float* q, const float* v, int n) {
                         for (int j = 0; j < n; ++j) {
                             const double value = v[j];
                             dot += q[j] * value;
                             square += value * value;
                         }
                     });
    }
    dot = warp_sum(dot);
    square = warp_sum(square);
    if (place.lane == 0) {
        dots[place.pair] = dot;
        squares[place.pair] = square;
    }
}

// Squared distances of rows as they are, from the differences: no cancellation between near rows.
extern "C" __global__ void distance_float32(const float* queries, const float* values, const long long* at,
                                            double* distances, long long pairs, int r, int d) {
    const Place place;
    if (place.pair >= pairs) return;
    const long long row = at[place.pair];
    double distance = 0;
    if (row >= 0) {
        share_of_row(queries + place.pair / r * d, values + row * d, d, place.lane,
                     [&](const float* q, const float* v, int n) {
                         for (int j = 0; j < n; ++j) {
                             const double difference = static_cast<double>(q[j]) - v[j];
                             distance += difference * difference;
                         }
                     });
    }
    distance = warp_sum(distance);
    if (place.lane == 0) distances[place.pair] = distance;
}
