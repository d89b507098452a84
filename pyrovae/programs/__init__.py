"""A program and data -> log densities per datum, unscaled and mask-aware: where evidence and diagnostics start."""

from pyrovae.programs.handlers import Beta, BetaMessenger, beta
from pyrovae.programs.pairs import Pair, as_pair, call_arguments, eval_mode
from pyrovae.programs.parameters import announced, register
from pyrovae.programs.running import PARTICLES, announced_like, check_sites, paired_traces, plate_nesting
from pyrovae.programs.sites import check_latents, latent_names, site_log_prob
from pyrovae.programs.terms import Terms, concatenate, given_terms, log_terms, particle_terms

__all__ = [
    "PARTICLES",
    "Beta",
    "BetaMessenger",
    "Pair",
    "Terms",
    "announced",
    "announced_like",
    "as_pair",
    "beta",
    "call_arguments",
    "check_latents",
    "check_sites",
    "concatenate",
    "eval_mode",
    "given_terms",
    "latent_names",
    "log_terms",
    "paired_traces",
    "particle_terms",
    "plate_nesting",
    "register",
    "site_log_prob",
]
