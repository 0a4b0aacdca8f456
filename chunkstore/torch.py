"""Datasets for `torch.utils.data.DataLoader`; `chunkstore.Loader` alone is simpler and faster."""

from chunkstore.loader.torch import MapDataset, StreamDataset

__all__ = ["MapDataset", "StreamDataset"]
