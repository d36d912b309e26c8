// Splits raw `.dat` records into their two layers, checks both headers, looks for NaN and infinity.
//
// Layout of a record, 20,400 bytes (16 × 1,275, so every record of an aligned buffer is 16-byte aligned):
//     byte     0  int64 1000        word    0
//     byte     8  fc8, 1000 floats  word    2   only 8-byte aligned: moved 8 bytes at a time
//     byte 4,008  int64 4096        word 1002
//     byte 4,016  fc7, 4096 floats  word 1004   16-byte aligned (251 × 16): moved 16 bytes at a time
// Values are moved as integers: bit for bit, signalling NaN too.

namespace {

const int RECORD_WORDS = 5100, FC8_DIM = 1000, FC7_DIM = 4096;
const int FC8_WORD = 2, FC7_HEADER_WORD = 1002, FC7_WORD = 1004;
// As in kernels/contract.py.
const unsigned char BAD_FC8_HEADER = 1, BAD_FC7_HEADER = 2, FC8_NOT_FINITE = 4, FC7_NOT_FINITE = 8;

// NaN and infinity are the values whose exponent is all ones.
__device__ bool not_finite(unsigned int bits) { return (bits & 0x7F800000u) == 0x7F800000u; }

__device__ bool header_is(const unsigned int* at, unsigned int dim) { return at[0] == dim && at[1] == 0; }

// The sum of one value of each thread of a block, in its first thread. Up to 1024 threads, a multiple of 32.
__device__ double block_sum(double v) {
    __shared__ double of_warp[32];
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_down_sync(0xFFFFFFFFu, v, offset);
    __syncthreads();  // the last sum may still be read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    double sum = 0;
    if (threadIdx.x == 0)
        for (unsigned int i = 0; i < blockDim.x / 32; ++i) sum += of_warp[i];
    return sum;
}

// Adds the squares of float32 values, given as bits, in float64, where no finite float32 overflows.
struct Squares {
    double sum = 0;
    __device__ void add(unsigned int bits) {
        const double v = __uint_as_float(bits);
        sum += v * v;
    }
};
struct Nothing {
    __device__ void add(unsigned int) {}
};

// One record by one block; what it adds up of either layer's values.
template <typename Sum>
__device__ void split(const unsigned int* records, unsigned int* fc7, unsigned int* fc8, unsigned char* flags,
                      Sum& of7, Sum& of8) {
    const size_t i = blockIdx.x;
    const unsigned int* record = records + i * RECORD_WORDS;

    const uint2* from8 = reinterpret_cast<const uint2*>(record + FC8_WORD);
    uint2* to8 = reinterpret_cast<uint2*>(fc8 + i * FC8_DIM);
    bool bad8 = false;
    for (int j = threadIdx.x; j < FC8_DIM / 2; j += blockDim.x) {
        const uint2 v = from8[j];
        bad8 |= not_finite(v.x) || not_finite(v.y);
        of8.add(v.x), of8.add(v.y);
        to8[j] = v;
    }

    const uint4* from7 = reinterpret_cast<const uint4*>(record + FC7_WORD);
    uint4* to7 = reinterpret_cast<uint4*>(fc7 + i * FC7_DIM);
    bool bad7 = false;
    for (int j = threadIdx.x; j < FC7_DIM / 4; j += blockDim.x) {
        const uint4 v = from7[j];
        bad7 |= not_finite(v.x) || not_finite(v.y) || not_finite(v.z) || not_finite(v.w);
        of7.add(v.x), of7.add(v.y), of7.add(v.z), of7.add(v.w);
        to7[j] = v;
    }

    const int any8 = __syncthreads_or(bad8);
    const int any7 = __syncthreads_or(bad7);
    if (threadIdx.x == 0) {
        flags[i] = (header_is(record, FC8_DIM) ? 0 : BAD_FC8_HEADER) |
                   (header_is(record + FC7_HEADER_WORD, FC7_DIM) ? 0 : BAD_FC7_HEADER) |
                   (any8 ? FC8_NOT_FINITE : 0) | (any7 ? FC7_NOT_FINITE : 0);
    }
}

}  // namespace

// records: (n, 20400) bytes, 16-byte aligned. fc7: (n, 4096), fc8: (n, 1000) float32 as bits, 16-byte aligned.
// flags: (n,) uint8. Grid: one block for each record, any number of threads.
extern "C" __global__ void decode(const unsigned int* records, unsigned int* fc7, unsigned int* fc8,
                                  unsigned char* flags) {
    Nothing of7, of8;
    split(records, fc7, fc8, flags, of7, of8);
}

// The same, and the L2 norms of both layers: norms7, norms8 (n,) float32. A multiple of 32 threads.
extern "C" __global__ void decode_norms(const unsigned int* records, unsigned int* fc7, unsigned int* fc8,
                                        unsigned char* flags, float* norms7, float* norms8) {
    Squares of7, of8;
    split(records, fc7, fc8, flags, of7, of8);
    const double square7 = block_sum(of7.sum), square8 = block_sum(of8.sum);
    if (threadIdx.x == 0) {
        norms7[blockIdx.x] = static_cast<float>(sqrt(square7));
        norms8[blockIdx.x] = static_cast<float>(sqrt(square8));
    }
}
