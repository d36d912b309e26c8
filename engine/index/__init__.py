"""Reduce, partition, quantize, search: sharded IVF-PQ indices over the layers of a store."""
