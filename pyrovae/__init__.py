"""Variational autoencoders as Pyro programs.

One class per graphical model, one argument per distribution, one handler per objective. Importing this package loads
nothing but a table of names; each pulls in its room when it is first touched. ``help(pyrovae.fit)`` explains one.

A model:            VAE, build_vae (by words), register (parts inside a model of your own)
Networks:           MLP, ConvEncoder, ConvDecoder, GRU, Transformer, BatchAxes (any module), Chain
Covariates:            FromCovariate (a parameter), ConcatCovariates, FiLM, Embed (a network's input)
Any of the three:   Factorized (every univariate family of Pyro), FullNormal, LowRank, GaussianMixture, AffineFlow, SplineFlow,
                    SimplexNormal, SimplexDirichlet, RelaxedOneHot
Priors:             standard_normal, VampPrior, UniformDirection (its posterior: Spherical)
Likelihoods:        MeanBetaBinomial, SizedPoisson, SizedNegativeBinomial, their zero-inflated forms, DiscretizedLogistic,
                    DiscretizedNormal, LogisticMixture, MeasuredNormal, MeasuredStudentT, Categories, OneHot, Multinomials,
                    TableLikelihood (columns of different kinds, by a TableSchema)
Training:           fit, beta, schedules, CapacityELBO, FreeBitsELBO, ImportanceWeightedELBO, StickingTheLanding
Evidence:           elbo, kl, reconstruction, bound (all three), log_weights, log_marginal, refine, bdmc, inference_gaps, psis
Comparison:         compare, probabilistic_pca, factor_analysis, stacking_weights, to_compare_frame, to_elpd_data
Missing entries:    impute, imputation_calibration
The posterior:      posterior_draws, reference_posterior, compare_posteriors, reliability, sbc, typicality
The latents:        latent_structure, elbo_surgery, rate_distortion
Predictive checks:  predictive_check, marginal_pit, leave_one_feature_out
All of it at once:  diagnose, write_report
ArviZ:              from_pyro_svi, arviz
Files:              data.load, save, load, plots
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
