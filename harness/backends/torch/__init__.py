"""The torch backend: one process, one device."""

from harness.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
