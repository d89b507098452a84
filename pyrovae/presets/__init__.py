"""A whole VAE from a spec of words and numbers that fits into a JSON file: for the command line and for saved runs.

Words are looked up in tables here and nowhere else; a program of your own is composed of classes instead. The names load
when they are touched, so that the command line can read the spec's options without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
