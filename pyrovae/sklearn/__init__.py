"""A VAE under scikit-learn's interface, for pipelines and grid search; scikit-learn is imported at the first touch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
