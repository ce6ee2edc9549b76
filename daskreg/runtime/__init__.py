"""What this process runs on: its device, its threads, compiled code, progress. Knows nothing of images."""
