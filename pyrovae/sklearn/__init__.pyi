from .transformer import VAETransformer as VAETransformer
