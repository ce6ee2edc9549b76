"""One file a format: what is there (metadata only), and boxes of its voxels on a worker."""
