"""A likelihood of text: each token given the tokens before it and the latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyrovae.distributions.tokens import TokenSequence
from pyrovae.errors import check_integer, refusal
from pyrovae.networks.base import Covariates, Network, check_network


class Tokens(nn.Module):
    r"""A sequence of tokens given one latent vector.

    .. math:: p(x_{1:T} \mid z) = \prod_t \mathrm{softmax}\bigl(f_t(E_{x_1}, \dots, E_{x_{t-1}}; z)\bigr)_{x_t}

    Args:
        net: an open network of sequences that does not look ahead: ``GRU((T, width), 64, per_step=True)``, or
            ``Transformer((T, width), 64, per_step=True, causal=True)``. A step gets the vector of the token before it,
            joined with the latent.
        num_tokens: K, the end (token 0) included.
        latent_dim: the length of z; the vectors of tokens take the rest of the width.
        word_dropout: in training, this share of the tokens before is hidden, so that the latent is needed.

    Raises:
        TypeError: ``net`` is no network.
        ValueError: the network looks ahead or has no room for the latent, or the share lies outside [0, 1].

    Reference: Bowman et al. 2016, Generating sentences from a continuous space, arXiv:1511.06349.

    >>> import pyrovae as pvae
    >>> Tokens(pvae.GRU((20, 24), 32, per_step=True), num_tokens=30, latent_dim=8)(torch.zeros(5, 8)).event_shape
    torch.Size([20])
    """

    def __init__(self, net: Network, num_tokens: int, latent_dim: int, *, word_dropout: float = 0.0) -> None:
        super().__init__()
        check_network("Tokens", net)
        self.num_tokens = check_integer("num_tokens", num_tokens, least=2)
        num_steps, width = net.in_shape if len(net.in_shape) == 2 else (0, 0)
        if width <= latent_dim:
            raise refusal(
                f"expected a network of sequences (steps, width) with room for a latent of length {latent_dim} and the vector "
                f"of a token, got in_shape={tuple(net.in_shape)}: write GRU((20, {latent_dim + 16}), 64, per_step=True), say",
                "net",
            )
        if not 0 <= word_dropout <= 1:
            raise refusal(f"word_dropout is a share of the tokens, between 0 and 1, got {word_dropout}", "word_dropout")
        self.word_dropout, self.num_steps = word_dropout, num_steps
        self.embed = nn.Embedding(
            num_tokens + 1, width - latent_dim
        )  # the last stands before the first, and for hidden ones
        self.net = net.close((num_steps, num_tokens))
        self.covariate_names = net.covariate_names
        if not self.covariate_names and _looks_ahead(self.net):
            raise refusal(
                f"the {type(net).__name__} looks ahead: a token would be given to its own distribution. Write GRU(..., "
                "per_step=True) without bidirectional, or Transformer(..., per_step=True, causal=True)",
                "net",
            )

    def forward(self, z: Tensor, covariates: Covariates | None = None) -> TokenSequence:
        """The distribution of the tokens, of event shape ``(T,)``, given latents ``(*batch, latent_dim)``."""

        def logits(tokens: Tensor) -> Tensor:
            before = pad(tokens.long()[..., :-1], (1, 0), value=self.num_tokens)
            if self.training and self.word_dropout:
                hidden = torch.rand(before.shape, device=before.device) < self.word_dropout
                before = before.masked_fill(hidden, self.num_tokens)
            batch = torch.broadcast_shapes(z.shape[:-1], tokens.shape[:-1])
            parts = self.embed(before), z.unsqueeze(-2).expand(*z.shape[:-1], self.num_steps, -1)
            return self.net(torch.cat([part.expand(*batch, -1, -1) for part in parts], -1), covariates)

        return TokenSequence(logits, self.num_steps, self.num_tokens, z.shape[:-1])


@torch.no_grad()
def _looks_ahead(net: Network) -> bool:
    """Whether the output of a step moves with the input of a later one."""
    x, mode = torch.linspace(-1, 1, net.in_shape.numel()).reshape(1, *net.in_shape), net.training
    one, other = (net.eval()(torch.cat([x[:, :-1], last], 1))[:, :-1] for last in (x[:, -1:], -3 * x[:, -1:]))
    net.train(mode)
    return not torch.allclose(one, other, rtol=0, atol=1e-6)
