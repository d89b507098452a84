"""A program and data -> log densities per datum, unscaled and mask-aware: where evidence and diagnostics start."""

from pyrovae.traces.programs import Pair, as_pair, call_arguments, eval_mode
from pyrovae.traces.running import PARTICLES, announced_like, check_sites, paired_traces, plate_nesting
from pyrovae.traces.sites import check_latents, latent_names, site_log_prob
from pyrovae.traces.terms import Terms, concatenate, given_terms, log_terms, particle_terms

__all__ = [
    "PARTICLES",
    "Pair",
    "Terms",
    "announced_like",
    "as_pair",
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
    "site_log_prob",
]
