import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine threads of small products wait for each other longer than they compute."""
    torch.set_num_threads(1)
