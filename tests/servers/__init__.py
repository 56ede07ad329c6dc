"""Real servers for tests, each in its own process: an S3 API, a Hub, and a proxy that makes either of them fail."""
