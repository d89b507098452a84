"""Named arrays to ArviZ and back, on both of its lines: ``InferenceData`` (0.x) and ``xarray.DataTree`` (1.x).

Numpy and xarray only: nothing here imports torch, and ArviZ itself is imported where a container has to be built.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
