"""Videos in and out: reading, writing, clip shards and pictures of videos."""
