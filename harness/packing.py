"""The public door to packing (`harness.losses.packing`): the only place that pads and shifts by one."""

from harness.losses.packing import pack

__all__ = ["pack"]
