"""A program and data -> what one run tells, log densities per datum, simulations: where everything downstream starts."""

from pyrovae.programs.buffers import Buffers
from pyrovae.programs.dry_run import Announced, DryRun, announced_like, dry_run
from pyrovae.programs.handlers import Beta, BetaMessenger, beta
from pyrovae.programs.parameters import announced, announcements_off, register, registered
from pyrovae.programs.program import Program, callable_without_data, eval_mode
from pyrovae.programs.running import check_sites, paired_traces, plate_nesting
from pyrovae.programs.sites import DATA, PARTICLES, check_latents, latent_names, site_log_prob
from pyrovae.programs.stored import foreign_names, stored_names
from pyrovae.programs.terms import Terms, concatenate, given_terms, log_terms

__all__ = [
    "DATA",
    "PARTICLES",
    "Announced",
    "Beta",
    "BetaMessenger",
    "Buffers",
    "DryRun",
    "Program",
    "Terms",
    "announced",
    "announced_like",
    "announcements_off",
    "beta",
    "callable_without_data",
    "check_latents",
    "check_sites",
    "concatenate",
    "dry_run",
    "eval_mode",
    "foreign_names",
    "given_terms",
    "latent_names",
    "log_terms",
    "paired_traces",
    "plate_nesting",
    "register",
    "registered",
    "site_log_prob",
    "stored_names",
]
