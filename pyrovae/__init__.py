"""Variational autoencoders as Pyro programs.

One class per graphical model, one argument per distribution, one handler per objective. Importing this package loads
nothing but a table of names; each pulls in its room when it is first touched. ``help(pyrovae.fit)`` explains one.

A model:            VAE, build_vae (from a spec), register (parts inside a model of your own)
Networks:           MLP, ConvEncoder, ConvDecoder, GRU, Transformer, BatchAxes (any module), Chain
Covariates:         FromCovariate (a parameter), ConcatCovariates, FiLM, Embed (a network's input)
Any of the three:   Conditional (to subclass), Factorized (every univariate family of Pyro), FullNormal, LowRank,
                    GaussianMixture, AffineFlow, SplineFlow
Priors:             standard_normal, VampPrior
Likelihoods:        MeanBetaBinomial, SizedPoisson, SizedNegativeBinomial, DiscretizedLogistic, DiscretizedNormal,
                    LogisticMixture, Categories, OneHot, TableLikelihood (columns of different kinds, by a TableSchema)
Training:           fit, CompiledELBO (in plain SVI), beta, schedules, CapacityELBO, FreeBitsELBO, ImportanceWeightedELBO,
                    StickingTheLanding
Evidence:           elbo (with its parts), log_weights, log_marginal, log_conditional (of some
                    entries given others), refine, inference_gaps, impute
Estimators:         Mixture (by default), Importance, Refined, AIS
Comparison:         compare, probabilistic_pca, factor_analysis
Checks:             diagnose (all at once), sbc, reliability, posterior_draws, reference_posterior, predictive_check,
                    latent_structure
Results:            write_report, from_pyro_svi, save, load, plots

Each room holds more than these: ``pyrovae.checks.power_scaling`` and ``local_calibration``, ``pyrovae.conditionals.Spherical``,
``pyrovae.distributions.CholeskyNormal``, ``pyrovae.evaluation.bdmc``, ``pyrovae.arviz.to_netcdf``, ... In ``pyrovae.uses`` are
``choose``, ``contrast``, ``latent_effects``, ``prior_sensitivity``, ``detect``, ``compress``, ``generation_quality``,
``representation_quality`` and ``multiple_imputation``; in ``pyrovae.sklearn`` is ``VAETransformer``.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
