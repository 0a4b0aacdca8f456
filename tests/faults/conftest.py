"""An S3 server that misbehaves on request."""

from scripted_s3 import scripted_s3

__all__ = ["scripted_s3"]
