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

}  // namespace

// records: (n, 20400) bytes, 16-byte aligned. fc7: (n, 4096), fc8: (n, 1000) float32 as bits, 16-byte aligned.
// flags: (n,) uint8. Grid: one block for each record, any number of threads.
extern "C" __global__ void decode(const unsigned int* records, unsigned int* fc7, unsigned int* fc8,
                                  unsigned char* flags) {
    const size_t i = blockIdx.x;
    const unsigned int* record = records + i * RECORD_WORDS;

    const uint2* from8 = reinterpret_cast<const uint2*>(record + FC8_WORD);
    uint2* to8 = reinterpret_cast<uint2*>(fc8 + i * FC8_DIM);
    bool bad8 = false;
    for (int j = threadIdx.x; j < FC8_DIM / 2; j += blockDim.x) {
        const uint2 v = from8[j];
        bad8 |= not_finite(v.x) || not_finite(v.y);
        to8[j] = v;
    }

    const uint4* from7 = reinterpret_cast<const uint4*>(record + FC7_WORD);
    uint4* to7 = reinterpret_cast<uint4*>(fc7 + i * FC7_DIM);
    bool bad7 = false;
    for (int j = threadIdx.x; j < FC7_DIM / 4; j += blockDim.x) {
        const uint4 v = from7[j];
        bad7 |= not_finite(v.x) || not_finite(v.y) || not_finite(v.z) || not_finite(v.w);
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
