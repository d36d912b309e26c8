"""Vectors in the formats of the field, read and written in bounded memory.

One file a family: `numpy_files` (.npy, .npz), `texmex` (.fvecs, .bvecs, .ivecs), `bins` (.fbin, .u8bin, …), `parquet`,
`hdf5` (ann-benchmarks). `by_suffix` chooses among them; `vectors` is what a reader gives, `exact` how its numbers
become float32 without changing.
"""
