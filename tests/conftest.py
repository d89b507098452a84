"""What every test may rely on."""

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def clean_state():
    """An empty parameter store before each test, and gradients on after it, whatever the one before did."""
    pyro.clear_param_store()
    yield
    assert torch.is_grad_enabled(), "this test, or what it tests, left gradients switched off"
