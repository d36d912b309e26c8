"""From `.dat` files to a store: formats, sources, ingest, manifests, checksums, the sample collection."""
