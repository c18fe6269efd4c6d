"""Simulated subjects: T1w and T2w of whole heads in register, with the truth known."""

from mrbridge.phantom.dataset import write_bids
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.simulate import SimulatedSubject, simulate

__all__ = ["PhantomSettings", "SimulatedSubject", "simulate", "write_bids"]
